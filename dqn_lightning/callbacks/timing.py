"""Logs how long things take."""

import time
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from dqn_lightning.csv_log import TIME_PREFIX
from dqn_lightning.dataset import Rollout
from dqn_lightning.module import DQNModule


class Timing(Callback):
    """Logs the run's wall-clock time, its speed, and the time that evaluations take.

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
            self._log(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Log the end."""
        self._log(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Note when an evaluation starts."""
        self._evaluation_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Add up what evaluations take."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._evaluation_s += time.perf_counter() - self._evaluation_started

    def state_dict(self) -> dict[str, Any]:
        """The time spent so far."""
        return {"elapsed_s": time.perf_counter() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.elapsed_s = state_dict["elapsed_s"]

    def _log(self, pl_module: DQNModule) -> None:
        now, env_steps = time.perf_counter(), pl_module.clock.env_steps
        then, env_steps_then = self._last_entry
        self.elapsed_s = now - self._started
        self._last_entry = (now, env_steps)
        values = {
            f"{TIME_PREFIX}elapsed_s": self.elapsed_s,
            f"{TIME_PREFIX}evaluation_s": self._evaluation_s,
        }
        if env_steps > env_steps_then:  # the end may come right after an entry
            values[f"{TIME_PREFIX}env_steps_per_s"] = (env_steps - env_steps_then) / (now - then)
        pl_module.log_metrics(values, env_steps)
