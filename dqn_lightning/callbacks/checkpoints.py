"""Writes the run's checkpoints."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from dqn_lightning.module import DQNModule
from dqn_lightning.types import Clock


class Checkpoints(Checkpoint):
    """Keeps `best.ckpt`, the weights of the best evaluation, and `last.ckpt`, everything.

    `last.ckpt` is written after each evaluation and when training ends; `best.ckpt` when an
    evaluation is better than all before it, so of equals it is the first. A file is replaced only
    by a whole one, and weights that are not finite are never written.

    Lightning's ModelCheckpoint counts Lightning's steps, and forgets the best score where a
    checkpoint lies between a due evaluation and its result.

    Args:
        monitor: The evaluation's value to compare; greater is better.
    """

    def __init__(self, monitor: str = "eval/return_mean") -> None:
        self.monitor = monitor
        self.best: float | None = None
        self.best_env_steps: int | None = None
        self._saved_at: Clock | None = None  # where the run stood in last.ckpt

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Forget when the last file was written: training goes on."""
        self._saved_at = None

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Save what an evaluation during training calls for."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is not None and (self.best is None or score.item() > self.best):
            self.best, self.best_env_steps = score.item(), pl_module.clock.env_steps
            self._save(trainer, "best.ckpt", weights_only=True)
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

    def _save_last(self, trainer: Trainer, pl_module: DQNModule) -> None:
        self._saved_at = pl_module.clock
        self._save(trainer, "last.ckpt", weights_only=False)

    def _save(self, trainer: Trainer, name: str, weights_only: bool) -> None:
        folder = trainer.log_dir
        if trainer.fast_dev_run or folder is None:
            return
        if not all(torch.isfinite(p).all() for p in trainer.lightning_module.parameters()):
            warnings.warn(f"{name} is not written: weights are not finite", stacklevel=2)
            return
        unfinished = Path(folder, f".{name}.tmp")
        trainer.save_checkpoint(unfinished, weights_only=weights_only)
        if trainer.is_global_zero:
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(Path(folder, name))
