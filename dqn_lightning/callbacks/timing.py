"""Callback that logs the speed of training and the share of time spent on each activity."""

import time
from typing import Any

from lightning.pytorch import Callback, Trainer

from dqn_lightning.interaction.rollouts import Rollout
from dqn_lightning.loggers.csv import TIME_PREFIX
from dqn_lightning.module import DQNModule


class Timing(Callback):
    """Callback that logs elapsed time, environment steps per second, and time spent per activity.

    Each log entry divides the time since the previous entry into shares, one for each activity:
    stepping the environments, selecting actions, updating, and evaluating. Updating does not
    include the time for which a GPU is still working after an update has returned. The remaining
    share is spent on other work, such as sampling, logging and writing files. An entry also
    contains the total evaluation time in seconds since training was started or resumed.

    Args:
        every_s: Minimum number of seconds between log entries.

    Attributes:
        elapsed_s: Training time in seconds up to the last log entry, including the time before the
            run was resumed.
    """

    def __init__(self, every_s: float = 5.0) -> None:
        self.every_s = every_s
        self._reset()

    def _reset(self) -> None:
        self.elapsed_s = 0.0
        self._started: float | None = None  # None unless training
        self._evaluation_s = 0.0

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Discard the state of an earlier fit in which the same callback was used."""
        if stage == "fit":
            self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Start the clock; a resumed run continues from its elapsed time."""
        now = time.perf_counter()
        self._started = now - self.elapsed_s
        self._evaluation_s = 0.0
        self._last_entry = (now, pl_module.progress.env_steps)
        self._spent_s = self._measure(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        outputs: Any,
        batch: Rollout,
        batch_idx: int,
    ) -> None:
        """Write a log entry if the last one is at least `every_s` seconds old."""
        if time.perf_counter() - self._last_entry[0] >= self.every_s:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Write the last log entry, and stop the clock."""
        self._log(trainer, pl_module)
        self._started = None

    def on_exception(
        self, trainer: Trainer, pl_module: DQNModule, exception: BaseException
    ) -> None:
        """Stop the clock if training fails."""
        self.elapsed_s = self._elapsed_s()
        self._started = None

    def on_validation_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Record the time at which an evaluation starts."""
        self._evaluation_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Add the duration of an evaluation to the total, if it takes place during training."""
        if pl_module.evaluates_training:
            self._evaluation_s += time.perf_counter() - self._evaluation_started

    def state_dict(self) -> dict[str, Any]:
        """Return the elapsed training time in seconds."""
        return {"elapsed_s": self._elapsed_s()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the elapsed training time."""
        self.elapsed_s = state_dict["elapsed_s"]

    def _elapsed_s(self) -> float:
        return self.elapsed_s if self._started is None else time.perf_counter() - self._started

    def _log(self, trainer: Trainer, pl_module: DQNModule) -> None:
        now, env_steps = time.perf_counter(), pl_module.progress.env_steps
        last_time, last_env_steps = self._last_entry
        assert self._started is not None
        self.elapsed_s = now - self._started
        self._last_entry = (now, env_steps)
        values = {"elapsed_s": self.elapsed_s, "evaluation_s": self._evaluation_s}
        if env_steps > last_env_steps:  # training may end right after an entry
            values["env_steps_per_s"] = (env_steps - last_env_steps) / (now - last_time)
            values |= self._shares(trainer, pl_module, now - last_time)
        prefixed = {f"{TIME_PREFIX}{name}": value for name, value in values.items()}
        pl_module.log_metrics(prefixed, env_steps)

    def _shares(self, trainer: Trainer, pl_module: DQNModule, seconds: float) -> dict[str, float]:
        before, self._spent_s = self._spent_s, self._measure(trainer, pl_module)
        shares = {f"{k}_share": (self._spent_s[k] - before[k]) / seconds for k in before}
        return {**shares, "rest_share": 1 - sum(shares.values())}

    def _measure(self, trainer: Trainer, pl_module: DQNModule) -> dict[str, float]:
        """Return the total seconds spent on each activity so far, by name of the activity."""
        collector = trainer.datamodule.dataset.collector
        return {
            "environment": collector.stepping_s,
            "acting": collector.acting_s,
            "update": pl_module.updating_s,
            "evaluation": self._evaluation_s,
        }
