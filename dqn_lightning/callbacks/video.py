"""Callback that records videos of evaluation episodes."""

from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from dqn_lightning.callbacks.run_directory import run_directory_of
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.interaction.episodes import play_episode
from dqn_lightning.internals.pytorch import write_summary
from dqn_lightning.module import DQNModule
from dqn_lightning.plots.video import FrameSampler, read_as_gif, write_video


class Video(Callback):
    """Callback that records videos of evaluation episodes in the run directory.

    A video is saved as `videos/<environment steps>.<format>`, and shown in TensorBoard as the image
    `eval/video`. The episode is played in a separate environment after the evaluation, so videos do
    not affect the run. With several ranks, only rank 0 records videos.

    Args:
        every_n_env_steps: Number of environment steps between videos. Whenever a multiple of this
            number has been reached, a video is recorded after the next evaluation.
        format: File format. WebP files are smaller; GIF files can be opened by more programs.
        fps: Maximum number of frames per second. If the environment's `render_fps` (environment
            steps per second) is higher, some steps are left out of the video.

    Raises:
        ConfigError: If `every_n_env_steps` or `fps` is not positive.
    """

    def __init__(
        self,
        every_n_env_steps: int = 10_000,
        format: Literal["gif", "webp"] = "gif",
        fps: float = 25.0,
    ) -> None:
        for name, value in (("every_n_env_steps", every_n_env_steps), ("fps", fps)):
            if not value > 0:
                raise ConfigError(f"Video: {name} must be positive, got {value}")
        self.every_n_env_steps = every_n_env_steps
        self.format = format
        self.fps = fps
        self._reset()

    def _reset(self) -> None:
        self._last_video_env_steps = 0
        self._collector: Collector | None = None  # of the environment that is recorded
        self._directory: Path | None = None

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Create the environment for videos, before any files are written.

        Raises:
            ConfigError: If the environment cannot render images.
        """
        if stage == "fit":
            self._reset()
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:
            self._collector = trainer.datamodule.collectors.rendering()

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Determine the directory to which videos are written."""
        self._directory = run_directory_of(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Record a video of one evaluation episode if a video is due."""
        if not pl_module.evaluates_training:
            return
        env_steps, every = pl_module.progress.env_steps, self.every_n_env_steps
        if (
            env_steps // every == self._last_video_env_steps // every
            or trainer.datamodule.stop_requested
        ):
            return
        self._last_video_env_steps = env_steps
        if self._collector is not None and self._directory is not None:
            path = self._record(self._collector, self._directory, trainer, pl_module)
            _show_in_tensorboard(path, trainer, env_steps)

    def teardown(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Drop the reference to the environment; the datamodule closes it."""
        self._collector = None

    def state_dict(self) -> dict[str, Any]:
        """Return the environment step at which the last video was recorded."""
        return {"last_video_env_steps": self._last_video_env_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the environment step at which the last video was recorded."""
        self._last_video_env_steps = state_dict["last_video_env_steps"]

    def _record(
        self, collector: Collector, directory: Path, trainer: Trainer, pl_module: DQNModule
    ) -> Path:
        data, env_steps = trainer.datamodule, pl_module.progress.env_steps
        path = directory / "videos" / f"{env_steps}.{self.format}"
        path.parent.mkdir(exist_ok=True)
        seed, max_steps = data.evaluation.seed, data.evaluation.max_steps
        played_steps = play_episode(collector, pl_module.q_values, seed, max_steps)
        sampler = FrameSampler(collector.envs.metadata.get("render_fps"), self.fps)
        until_stopped = takewhile(
            lambda played: played.step == 0 or not data.stop_requested, played_steps
        )
        write_video(path, sampler.timed_frames(until_stopped, f"{env_steps:,} environment steps"))
        return path


def _show_in_tensorboard(path: Path, trainer: Trainer, env_steps: int) -> None:
    with Image.open(path) as video:
        width, height = video.size
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            gif = Summary.Image(
                width=width, height=height, colorspace=3, encoded_image_string=read_as_gif(path)
            )
            summary = Summary(value=[Summary.Value(tag="eval/video", image=gif)])
            write_summary(logger.experiment, summary, env_steps)
