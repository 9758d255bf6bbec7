"""Callback that logs and plots the lengths and returns of training episodes."""

import time
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from dqn_lightning.callbacks.run_directory import run_directory_of
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.rollouts import Rollout
from dqn_lightning.module import DQNModule
from dqn_lightning.plots.episodes import LENGTH, RETURN, LiveLengthPlot, save_episodes
from dqn_lightning.types import Episode

_FIRST_PLOT_AFTER_S = 10.0
_MAX_PLOTTING_SHARE = 1 / 50  # of the training time


class EpisodeLog(Callback):
    """Callback that logs and plots the length and return of every finished training episode.

    When an episode finishes, its return and length are logged as `train/episode_return` and
    `train/episode_length`. The means over the most recent `window` episodes are logged as
    `train/return_mean` and `train/length_mean`. With several ranks, only the episodes of rank 0 are
    logged.

    Args:
        window: Number of most recent episodes over which means are computed.
        save_plots: Whether to save `lengths.png` and `returns.png` to the run directory during
            training and at the end. Plotting takes at most 2 % of the training time.
        live: Whether to plot the episode lengths during training, in a window or below the notebook
            cell. If no display is available, a message is printed and training continues.

    Attributes:
        lengths: Lengths in environment steps of all episodes finished on this rank.
        returns: Undiscounted returns of the same episodes.
        return_mean: Mean return of the most recent `window` episodes; None if no episode has
            finished yet.

    Raises:
        ConfigError: If `window` is not positive.
    """

    def __init__(self, window: int = 100, save_plots: bool = True, live: bool = False) -> None:
        if window < 1:
            raise ConfigError(f"episode_log.window: must be at least 1, got {window}")
        self.window = window
        self.save_plots = save_plots
        self.live = live
        self._reset()

    def _reset(self) -> None:
        self.lengths: list[int] = []
        self.returns: list[float] = []
        self.return_mean: float | None = None
        self._directory: Path | None = None
        self._live_plot: LiveLengthPlot | None = None
        self._next_plot_at = 0.0

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Discard the episodes of an earlier fit in which the same callback was used."""
        if stage == "fit":
            self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Schedule the first plot, and open the live plot if it is enabled."""
        self._next_plot_at = time.monotonic() + _FIRST_PLOT_AFTER_S
        self._directory = run_directory_of(trainer)
        if self.live and trainer.is_global_zero and not trainer.fast_dev_run:
            self._open_live_plot()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: DQNModule, batch: Rollout, batch_idx: int
    ) -> None:
        """Register a function that logs each episode of the rollout as soon as it finishes."""
        batch.on_episode.append(partial(self._log, pl_module))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        outputs: Any,
        batch: Rollout,
        batch_idx: int,
    ) -> None:
        """Provide `train/return_mean` to other callbacks, and update the plots if they are due."""
        if not batch.episodes:
            return
        assert self.return_mean is not None
        pl_module.log("train/return_mean", self.return_mean, logger=False, batch_size=1)
        if time.monotonic() >= self._next_plot_at:
            self._plot()

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Plot all finished episodes."""
        if self.lengths:
            self._plot()

    def state_dict(self) -> dict[str, Any]:
        """Return the lengths and returns of all finished episodes."""
        return {"lengths": list(self.lengths), "returns": list(self.returns)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the lengths and returns of all finished episodes."""
        self.lengths = list(state_dict["lengths"])
        self.returns = list(state_dict["returns"])
        self.return_mean = fmean(self.returns[-self.window :]) if self.returns else None

    def _log(self, pl_module: DQNModule, episode: Episode) -> None:
        pl_module.log_metrics(self._add(episode), episode.env_steps)

    def _add(self, episode: Episode) -> dict[str, float]:
        """Record a finished episode, and return its metrics and the current means by name."""
        self.lengths.append(episode.length)
        self.returns.append(episode.episode_return)
        self.return_mean = fmean(self.returns[-self.window :])
        return {
            "train/episode_return": episode.episode_return,
            "train/episode_length": float(episode.length),
            "train/return_mean": self.return_mean,
            "train/length_mean": fmean(self.lengths[-self.window :]),
        }

    def _open_live_plot(self) -> None:
        try:
            self._live_plot = LiveLengthPlot(self.window)
        except RuntimeError as error:
            rank_zero_info(f"episode_log.live: {error}; training continues without the live plot")

    @rank_zero_only
    def _plot(self) -> None:
        started = time.monotonic()
        if self.save_plots and self._directory is not None:
            save_episodes(self._directory / "lengths.png", self.lengths, LENGTH, self.window)
            save_episodes(self._directory / "returns.png", self.returns, RETURN, self.window)
        if self._live_plot is not None:
            self._live_plot.show(self.lengths)
        now = time.monotonic()
        self._next_plot_at = now + (now - started) / _MAX_PLOTTING_SHARE
