"""Logs how long things take."""

import time
from typing import Any

from lightning.pytorch import Callback, Trainer

from dqn_lightning.csv_log import TIME_PREFIX
from dqn_lightning.dataset import Rollout
from dqn_lightning.module import DQNModule


class Timing(Callback):
    """Logs the run's wall-clock time, its speed, and where the time goes.

    Shares are of the time since the entry before: of the environments, of choosing actions, of
    updates (a GPU may still be at work when the program goes on), of evaluations with all that
    belongs to them; the rest is drawing, writing and logging.

    Args:
        every_s: Seconds between entries.
    """

    def __init__(self, every_s: float = 5.0) -> None:
        self.every_s = every_s
        self.elapsed_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Start the clock, after what came before in a resumed run."""
        now = time.perf_counter()
        self._started = now - self.elapsed_s
        self._evaluation_s = 0.0
        self._last_entry = (now, pl_module.clock.env_steps)
        self._spent = self._spent_so_far(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        outputs: Any,
        batch: Rollout,
        batch_idx: int,
    ) -> None:
        """Log if it is time."""
        if time.perf_counter() - self._last_entry[0] >= self.every_s:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Log the end."""
        self._log(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Note when an evaluation starts."""
        self._evaluation_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Add up what evaluations take."""
        if pl_module.evaluates_training:
            self._evaluation_s += time.perf_counter() - self._evaluation_started

    def state_dict(self) -> dict[str, Any]:
        """The time spent so far."""
        return {"elapsed_s": time.perf_counter() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.elapsed_s = state_dict["elapsed_s"]

    def _log(self, trainer: Trainer, pl_module: DQNModule) -> None:
        now, env_steps = time.perf_counter(), pl_module.clock.env_steps
        then, env_steps_then = self._last_entry
        self.elapsed_s = now - self._started
        self._last_entry = (now, env_steps)
        values = {"elapsed_s": self.elapsed_s, "evaluation_s": self._evaluation_s}
        if env_steps > env_steps_then:  # the end may come right after an entry
            values["env_steps_per_s"] = (env_steps - env_steps_then) / (now - then)
            values |= self._shares(trainer, pl_module, now - then)
        named = {f"{TIME_PREFIX}{name}": value for name, value in values.items()}
        pl_module.log_metrics(named, env_steps)

    def _shares(self, trainer: Trainer, pl_module: DQNModule, seconds: float) -> dict[str, float]:
        before, self._spent = self._spent, self._spent_so_far(trainer, pl_module)
        shares = {f"{k}_share": (self._spent[k] - before[k]) / seconds for k in before}
        return {**shares, "rest_share": 1 - sum(shares.values())}

    def _spent_so_far(self, trainer: Trainer, pl_module: DQNModule) -> dict[str, float]:
        """Seconds, since the parts were made."""
        collector = trainer.datamodule.dataset.collector
        return {
            "environment": collector.stepping_s,
            "acting": collector.acting_s,
            "update": pl_module.updating_s,
            "evaluation": self._evaluation_s,
        }
