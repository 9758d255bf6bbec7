"""Writes the run's checkpoints."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from dqn_lightning import files, ranks
from dqn_lightning.callbacks.full_state import FullState
from dqn_lightning.callbacks.run_folder import folder_of_run
from dqn_lightning.dataset import Rollout
from dqn_lightning.errors import ConfigError, NonFiniteError
from dqn_lightning.module import DQNModule
from dqn_lightning.types import Clock

_KEPT = "env_steps-"


class Checkpoints(Checkpoint):
    """Keeps `best.ckpt`, the weights of the best evaluation, and `last.ckpt`, everything.

    `best.ckpt` is written when an evaluation is better than all before it, so of equals it is the
    first. `last.ckpt` is written after each evaluation, at the end of the rollout in which a period
    has passed, and when training ends. A file is replaced only by a whole one.

    With `FullState`, `last.ckpt` is followed by everything that a run needs to go on as if it had
    never stopped.

    Lightning's ModelCheckpoint counts Lightning's steps, and forgets the best score where a
    checkpoint lies between a due evaluation and its result.

    Args:
        monitor: The evaluation's value to compare; greater is better.
        every_n_env_steps: Environment steps between writings of `last.ckpt`; none if None.
        every_n_minutes: Minutes between them, by rank 0's clock; none if None.
        keep_last: With 2 or more, so many of the newest are kept beside `last.ckpt`, which is the
            newest of them, as `env_steps-N.ckpt`.

    Raises:
        ConfigError: If a period or `keep_last` is not positive.
    """

    def __init__(
        self,
        monitor: str = "eval/return_mean",
        every_n_env_steps: int | None = None,
        every_n_minutes: float | None = 10.0,
        keep_last: int = 1,
    ) -> None:
        numbers = {
            "every_n_env_steps": every_n_env_steps,
            "every_n_minutes": every_n_minutes,
            "keep_last": keep_last,
        }
        for name, period in numbers.items():
            if period is not None and period <= 0:
                raise ConfigError(f"checkpoints.{name}: must be positive, got {period}")
        self.monitor = monitor
        self.every_n_env_steps = every_n_env_steps
        self.every_n_minutes = every_n_minutes
        self.keep_last = keep_last
        self.best: float | None = None
        self.best_env_steps: int | None = None
        self._folder: Path | None = None  # the run's

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Start the periods; forget the best of a run that went on under another name."""
        self._folder = folder_of_run(trainer)
        if self._folder is None or not ranks.of_first((self._folder / "best.ckpt").exists()):
            self.best = self.best_env_steps = None
        self._saved_at: Clock | None = None  # where the run stood in last.ckpt
        self._passed = self._multiples(trainer.datamodule.dataset.boundary)
        self._saved_time = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        outputs: Any,
        batch: Rollout,
        batch_idx: int,
    ) -> None:
        """Save if a period has passed; if an evaluation is due now, after that instead."""
        before = self._passed
        if batch.complete:
            self._passed = self._multiples(batch.end)
        if (self._late() or self._passed > before) and not batch.evaluation_due:
            self._save_last(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Save what an evaluation during training calls for."""
        if not pl_module.evaluates_training:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None and pl_module.summary is not None:
            names = ", ".join(name for name in trainer.callback_metrics if name.startswith("eval/"))
            raise ConfigError(f"checkpoints.monitor: nothing is named {self.monitor}; use {names}")
        if score is not None and (self.best is None or score.item() > self.best):
            self._save(trainer, "best.ckpt", weights_only=True)
            self.best, self.best_env_steps = score.item(), pl_module.clock.env_steps
        self._save_last(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Save the end of the run."""
        if self._saved_at != pl_module.clock:
            self._save_last(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The best score and where it was reached."""
        return {"best": self.best, "best_env_steps": self.best_env_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with it."""
        self.best = state_dict["best"]
        self.best_env_steps = state_dict["best_env_steps"]

    def _multiples(self, env_steps: int) -> int:
        """How many periods have passed in the run after so many environment steps."""
        return 0 if self.every_n_env_steps is None else env_steps // self.every_n_env_steps

    def _late(self) -> bool:
        """Whether it is time to save, for all ranks alike."""
        if self.every_n_minutes is None:
            return False
        minutes = (time.monotonic() - self._saved_time) / 60
        return bool(ranks.of_first(minutes >= self.every_n_minutes))

    def _save_last(self, trainer: Trainer, pl_module: DQNModule) -> None:
        self._saved_at = pl_module.clock
        self._saved_time = time.monotonic()
        self._save(trainer, "last.ckpt", weights_only=False)
        if self._folder is None:
            return
        newest = [self._folder / "last.ckpt"]
        if self.keep_last > 1:
            env_steps = ranks.of_first(pl_module.clock.env_steps)
            newest.append(self._folder / f"{_KEPT}{env_steps}.ckpt")
            if trainer.is_global_zero:
                self._keep(self._folder, env_steps)
        trainer.strategy.barrier()  # all see the files under their names
        for callback in trainer.callbacks:
            if isinstance(callback, FullState):
                callback.remove_unused(newest)

    def _keep(self, folder: Path, env_steps: int) -> None:
        """Give `last.ckpt` a second name, and remove the oldest and those of a future given up."""
        files.link(folder / "last.ckpt", f"{_KEPT}{env_steps}.ckpt")
        kept = {int(p.stem.removeprefix(_KEPT)): p for p in folder.glob(f"{_KEPT}[0-9]*.ckpt")}
        given_up = [number for number in kept if number > env_steps]
        oldest = sorted(kept.keys() - set(given_up))[: -self.keep_last]
        for number in (*given_up, *oldest):
            kept[number].unlink()

    def _save(self, trainer: Trainer, name: str, weights_only: bool) -> None:
        if self._folder is None:
            return
        if not all(torch.isfinite(p).all() for p in trainer.lightning_module.parameters()):
            raise NonFiniteError(
                f"weights are not finite at update {trainer.global_step}, so {name} is not "
                "written; a smaller learning rate (model.optimizer) or gradient_clamp may help"
            )
        unfinished = files.temporary(self._folder, name)
        try:
            trainer.save_checkpoint(unfinished, weights_only=weights_only)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise OSError(f"{self._folder / name} cannot be written: {error}") from error
        if trainer.is_global_zero:
            files.seal(unfinished, name)
