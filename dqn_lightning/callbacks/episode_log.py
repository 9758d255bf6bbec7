"""Logs and draws the durations and returns of episodes."""

import time
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from dqn_lightning.callbacks.run_folder import folder_of_run
from dqn_lightning.dataset import Rollout
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
from dqn_lightning.plots.episodes import DURATION, RETURN, LiveDurations, save_episodes
from dqn_lightning.types import Episode

_FIRST_DRAWING_S = 10.0


class EpisodeLog(Callback):
    """Writes each finished training episode to every logger, and draws them.

    Logged are `train/episode_return`, `train/episode_length` and their means over the newest
    episodes, `train/return_mean` and `train/length_mean`, over environment steps. Where there are
    several ranks, they are those of rank 0.

    Args:
        window: Episodes of the running means.
        picture: Whether to draw `durations.png` and `returns.png` into the run's folder, while
            training and at its end (at most a fiftieth of the time is spent on it).
        live: Whether to show the durations in a window, or in the notebook; without a display it
            says so and goes on.

    Raises:
        ConfigError: If `window` is not positive.
    """

    def __init__(self, window: int = 100, picture: bool = True, live: bool = False) -> None:
        if window < 1:
            raise ConfigError(f"episode_log.window: must be at least 1, got {window}")
        self.window = window
        self.picture = picture
        self.live = live
        self.durations: list[int] = []
        self.returns: list[float] = []
        self.return_mean: float | None = None  # of the newest episodes
        self._folder: Path | None = None  # where pictures are drawn
        self._live: LiveDurations | None = None
        self._next_drawing = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Give training a start before the first drawing, which takes a third of a second."""
        self._next_drawing = time.monotonic() + _FIRST_DRAWING_S
        self._folder = folder_of_run(trainer)
        if self.live and trainer.is_global_zero and not trainer.fast_dev_run:
            self._open_window()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: DQNModule, batch: Rollout, batch_idx: int
    ) -> None:
        """Log each episode as it ends, so in the same order whatever the rollouts' length."""
        batch.on_episode.append(partial(self._log, pl_module))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        outputs: Any,
        batch: Rollout,
        batch_idx: int,
    ) -> None:
        """Let other callbacks know the mean, and draw if it is time."""
        if not batch.episodes:
            return
        assert self.return_mean is not None
        pl_module.log("train/return_mean", self.return_mean, logger=False, batch_size=1)
        if time.monotonic() >= self._next_drawing:
            self._draw()

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Draw all of them once more."""
        if self.durations:
            self._draw()

    def state_dict(self) -> dict[str, Any]:
        """All durations and returns so far."""
        return {"durations": self.durations, "returns": self.returns}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.durations = state_dict["durations"]
        self.returns = state_dict["returns"]

    def _log(self, pl_module: DQNModule, episode: Episode) -> None:
        pl_module.log_metrics(self._values(episode), episode.env_steps)

    def _values(self, episode: Episode) -> dict[str, float]:
        self.durations.append(episode.duration)
        self.returns.append(episode.episode_return)
        self.return_mean = fmean(self.returns[-self.window :])
        return {
            "train/episode_return": episode.episode_return,
            "train/episode_length": float(episode.duration),
            "train/return_mean": self.return_mean,
            "train/length_mean": fmean(self.durations[-self.window :]),
        }

    def _open_window(self) -> None:
        try:
            self._live = LiveDurations(self.window)
        except RuntimeError as error:
            rank_zero_info(f"episode_log.live: {error}; durations.png is drawn all the same")

    @rank_zero_only
    def _draw(self) -> None:
        started = time.monotonic()
        if self.picture and self._folder is not None:
            save_episodes(self._folder / "durations.png", self.durations, DURATION, self.window)
            save_episodes(self._folder / "returns.png", self.returns, RETURN, self.window)
        if self._live is not None:
            self._live.show(self.durations)
        now = time.monotonic()
        self._next_drawing = now + 50 * (now - started)
