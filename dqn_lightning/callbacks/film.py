"""Films an episode now and then."""

from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from dqn_lightning.callbacks.run_folder import folder_of_run
from dqn_lightning.collector import Collector
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
from dqn_lightning.playing import play_episode
from dqn_lightning.plots.film import Camera, gif_of, write_film


class Film(Callback):
    """Films the first episode of evaluations: `films/<environment steps>.gif` in the run's folder.

    TensorBoard shows it too, as the image `eval/film`. The episode is played on an environment of
    its own and disturbs nothing: the run is the same with and without films. Rank 0 makes them.

    Args:
        every_n_env_steps: A film is made after the first evaluation that reaches or passes a
            multiple.
        format: Kind of file; WebP is smaller, GIF opens everywhere.
        fps: Frames in a second, at most; steps in between are left out.

    Raises:
        ConfigError: If a number is not positive.
    """

    def __init__(
        self,
        every_n_env_steps: int = 10_000,
        format: Literal["gif", "webp"] = "gif",
        fps: float = 25.0,
    ) -> None:
        for name, value in (("every_n_env_steps", every_n_env_steps), ("fps", fps)):
            if not value > 0:
                raise ConfigError(f"Film: {name} must be positive, got {value}")
        self.every_n_env_steps = every_n_env_steps
        self.format = format
        self.fps = fps
        self._filmed = 0  # environment steps of the newest film
        self._collector: Collector | None = None  # where films are made

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Make the environment, so that one which cannot draw is refused before anything runs."""
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:
            self._collector = trainer.datamodule.drawing_collector()

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """See where films go."""
        self._folder = folder_of_run(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Film an episode if it is time."""
        if not pl_module.evaluates_training:
            return
        env_steps, every = pl_module.clock.env_steps, self.every_n_env_steps
        if env_steps // every == self._filmed // every or trainer.datamodule.stopped:
            return
        self._filmed = env_steps
        if self._collector is not None and self._folder is not None:
            path = self._film(self._collector, self._folder, trainer, pl_module)
            _show_in_tensorboard(path, trainer, env_steps)

    def teardown(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Let the environment go, which the datamodule closes."""
        self._collector = None

    def state_dict(self) -> dict[str, Any]:
        """When the newest film was made."""
        return {"filmed": self._filmed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._filmed = state_dict["filmed"]

    def _film(
        self, collector: Collector, folder: Path, trainer: Trainer, pl_module: DQNModule
    ) -> Path:
        data, env_steps = trainer.datamodule, pl_module.clock.env_steps
        path = folder / "films" / f"{env_steps}.{self.format}"
        path.parent.mkdir(exist_ok=True)
        moments = play_episode(collector, pl_module.q_values, data.eval_seed)
        camera = Camera(collector.envs.metadata.get("render_fps"), self.fps)
        until_stopped = takewhile(lambda moment: moment.step == 0 or not data.stopped, moments)
        write_film(path, camera.shots(until_stopped, f"{env_steps:,} environment steps"))
        return path


def _show_in_tensorboard(path: Path, trainer: Trainer, env_steps: int) -> None:
    with Image.open(path) as film:
        width, height = film.size
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            gif = Summary.Image(
                width=width, height=height, colorspace=3, encoded_image_string=gif_of(path)
            )
            summary = Summary(value=[Summary.Value(tag="eval/film", image=gif)])
            logger.experiment._get_file_writer().add_summary(summary, env_steps)
