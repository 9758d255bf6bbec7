"""Callback that saves the best and the last checkpoint of a run."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from dqn_lightning import distributed
from dqn_lightning.callbacks.episode_log import EpisodeLog
from dqn_lightning.callbacks.full_state import NEW_DIRECTORY_HINT, FullState
from dqn_lightning.callbacks.run_directory import run_directory_of
from dqn_lightning.checkpointing import files
from dqn_lightning.checkpointing.format import KEY
from dqn_lightning.checkpointing.store import keep_newest, numbered_checkpoint
from dqn_lightning.errors import ConfigError, NonFiniteError, WriteError
from dqn_lightning.interaction.rollouts import Rollout
from dqn_lightning.module import DQNModule
from dqn_lightning.types import Clock, RunProgress

_WITHOUT_METRICS = ("dqn_lightning.", "lightning.")
"""Packages whose callbacks log no metrics that can be monitored."""


class Checkpoints(Checkpoint):
    """Callback that saves the best weights as `best.ckpt` and the state of the run as `last.ckpt`.

    `best.ckpt` is saved when the monitored metric is higher than in all previous evaluations.
    `last.ckpt` is saved after each evaluation, after each rollout during which `every_n_env_steps`
    or `every_n_minutes` have elapsed, and when training ends. Files are written atomically.

    If the callback `FullState` is used as well, a run resumes from `last.ckpt` bit for bit.

    Lightning's ModelCheckpoint is not used because it counts gradient steps instead of environment
    steps. It would also lose the best score if a checkpoint were saved while an evaluation is due
    but not finished.

    Args:
        monitor: Name of the evaluation metric to compare; higher is better.
        every_n_env_steps: Interval in environment steps for saving `last.ckpt`; null to disable.
        every_n_minutes: Interval in minutes for saving `last.ckpt`; null to disable.
        keep_last: Number of recent checkpoints to keep. If it is 2 or more, each `last.ckpt` is
            also kept as `env_steps-N.ckpt`, where N is the number of environment steps.

    Attributes:
        best: Best value of the monitored metric so far; None before the first evaluation.
        best_env_steps: Environment step at which the best value was reached; None before the first
            evaluation.

    Raises:
        ConfigError: If an interval or `keep_last` is not positive.
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
        for name, number in numbers.items():
            if number is not None and number <= 0:
                raise ConfigError(f"checkpoints.{name}: must be positive, got {number}")
        self.monitor = monitor
        self.every_n_env_steps = every_n_env_steps
        self.every_n_minutes = every_n_minutes
        self.keep_last = keep_last
        self.best: float | None = None
        self.best_env_steps: int | None = None
        self._directory: Path | None = None

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Discard the best score of an earlier fit in which the same callback was used.

        Raises:
            ConfigError: If nothing logs the metric that this or another callback monitors.
        """
        if stage == "fit":
            self.best = self.best_env_steps = None
            _check_monitors(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: DQNModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the `best.ckpt` of a run that resumes in its own directory.

        Raises:
            ConfigError: If the checkpoint has a best score, but `best.ckpt` is missing or corrupt,
                belongs to another run, or was not saved by the best evaluation.
        """
        saved = checkpoint.get("callbacks", {}).get(self.state_key, {})
        path, directory = Path(str(trainer.ckpt_path)), run_directory_of(trainer)
        problem = None
        if (
            trainer.is_global_zero
            and saved.get("best") is not None
            and directory is not None
            and directory.resolve() == path.parent.resolve()
        ):
            try:
                _check_best(path, pl_module.progress, saved["best_env_steps"])
            except ConfigError as error:
                problem = f"{error}; {NEW_DIRECTORY_HINT}"
        distributed.raise_on_all_ranks(ConfigError, problem)

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Start both intervals; discard a restored best score if `best.ckpt` does not exist."""
        self._directory = run_directory_of(trainer)
        best = None if self._directory is None else self._directory / "best.ckpt"
        if best is None or not distributed.broadcast_value(best.exists()):
            self.best = self.best_env_steps = None
        self._saved_clock: Clock | None = None
        self._periods_passed = self._count_periods(pl_module.progress.rollout_end)
        self._saved_time = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        outputs: Any,
        batch: Rollout,
        batch_idx: int,
    ) -> None:
        """Save `last.ckpt` if an interval has elapsed and no evaluation is due."""
        before = self._periods_passed
        if batch.complete:
            self._periods_passed = self._count_periods(batch.end)
        passed = self._minutes_passed() or self._periods_passed > before
        if passed and not batch.evaluation_due:
            self._save_last(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Write the loggers' buffered rows to disk, because an evaluation may take minutes."""
        for logger in trainer.loggers:
            logger.save()

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Save `last.ckpt`, and also `best.ckpt` if the evaluation has the best score so far.

        Raises:
            ConfigError: If the evaluation does not log the monitored metric.
        """
        if not pl_module.evaluates_training:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None and pl_module.summary is not None:
            names = ", ".join(name for name in trainer.callback_metrics if name.startswith("eval/"))
            raise ConfigError(f"checkpoints.monitor: no metric {self.monitor}; use {names}")
        if score is not None and (self.best is None or score.item() > self.best):
            self._save(trainer, "best.ckpt", weights_only=True)
            self.best, self.best_env_steps = score.item(), pl_module.progress.env_steps
        self._save_last(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Save the final state of the run, unless it has already been saved."""
        if self._saved_clock != pl_module.progress.clock:
            self._save_last(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the environment step at which it was reached."""
        return {"best": self.best, "best_env_steps": self.best_env_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score and the environment step at which it was reached."""
        self.best = state_dict["best"]
        self.best_env_steps = state_dict["best_env_steps"]

    def _count_periods(self, env_steps: int) -> int:
        return 0 if self.every_n_env_steps is None else env_steps // self.every_n_env_steps

    def _minutes_passed(self) -> bool:
        """Return whether, on rank 0, the last save was at least `every_n_minutes` ago."""
        if self.every_n_minutes is None:
            return False
        minutes = (time.monotonic() - self._saved_time) / 60
        return bool(distributed.broadcast_value(minutes >= self.every_n_minutes))

    def _save_last(self, trainer: Trainer, pl_module: DQNModule) -> None:
        self._saved_clock = pl_module.progress.clock
        self._saved_time = time.monotonic()
        self._save(trainer, "last.ckpt", weights_only=False)
        if self._directory is None:
            return
        last = self._directory / "last.ckpt"
        newest = [last]
        if self.keep_last > 1:
            env_steps = distributed.broadcast_value(pl_module.progress.env_steps)
            newest.append(numbered_checkpoint(self._directory, env_steps))
            self._keep_newest(trainer, last, env_steps)
        for callback in trainer.callbacks:
            if isinstance(callback, FullState):
                callback.remove_unused(newest)

    def _keep_newest(self, trainer: Trainer, last: Path, env_steps: int) -> None:
        problem = None
        try:
            if trainer.is_global_zero:
                keep_newest(last, env_steps, self.keep_last)
        except OSError as error:
            problem = f"{last.parent}: {error.strerror or error}"
        distributed.raise_on_all_ranks(WriteError, problem)

    def _save(self, trainer: Trainer, name: str, weights_only: bool) -> None:
        if self._directory is None:
            return
        if not all(torch.isfinite(p).all() for p in trainer.lightning_module.parameters()):
            raise NonFiniteError(
                f"weights are not finite at update {trainer.global_step}, so {name} is not "
                "written; try a smaller learning rate (model.optimizer) or gradient_clamp"
            )
        problem = None
        try:
            trainer.save_checkpoint(self._directory / name, weights_only=weights_only)
        except OSError as error:
            problem = str(error)
            trainer.strategy.barrier()  # where the ranks without an error wait
        distributed.raise_on_all_ranks(WriteError, problem)


def _check_best(path: Path, resumed: RunProgress, env_steps: int) -> None:
    """Check that the `best.ckpt` beside a checkpoint is the one that the checkpoint expects.

    It may also be newer than the checkpoint, because a run can be killed after it has written
    `best.ckpt` and before it writes `last.ckpt`.

    Args:
        path: Checkpoint from which the run resumes.
        resumed: Progress of the run in this checkpoint.
        env_steps: Environment step of the best evaluation.

    Raises:
        ConfigError: If `best.ckpt` is missing, corrupt, of another run, or of another evaluation.
    """
    best, source = path.with_name("best.ckpt"), f"--ckpt_path: {path.name} refers to"
    content = files.load(best, source)
    progress = content[KEY]["progress"]
    if progress["run_id"] != resumed.run_id:
        raise ConfigError(f"{source}: {best} belongs to another run")
    saved = progress["env_steps"]
    if "optimizer_states" in content or (saved != env_steps and saved < resumed.env_steps):
        raise ConfigError(
            f"{source}: {best} was not saved by the best evaluation, at step {env_steps}"
        )


def _check_monitors(trainer: Trainer, module: DQNModule) -> None:
    """Check the metrics that callbacks monitor, unless a user's class could log them."""
    packages = [type(each).__module__ for each in (module, *trainer.callbacks)]
    if not all(package.startswith(_WITHOUT_METRICS) for package in packages):
        return
    names = [f"eval/{name}" for name in module.evaluation_metrics.names]
    if any(isinstance(callback, EpisodeLog) for callback in trainer.callbacks):
        names.append("train/return_mean")
    for callback in trainer.callbacks:
        monitored = getattr(callback, "monitor", None)
        if monitored in (None, *names) or not getattr(callback, "strict", True):
            continue
        is_own = isinstance(callback, Checkpoints)
        flag = "checkpoints" if is_own else f"trainer.callbacks: {type(callback).__name__}"
        raise ConfigError(f"{flag}.monitor: no metric {monitored}; use {', '.join(names)}")
