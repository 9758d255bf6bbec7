"""The commands beside Lightning's own."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from dqn_lightning.arguments import read_checkpoint
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.envs.factory import has_display
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
from dqn_lightning.playing import play_episode
from dqn_lightning.plots.episodes import has_windows
from dqn_lightning.plots.film import Camera, Shot, check_film, write_film
from dqn_lightning.plots.screen import Screen, draw_screen
from dqn_lightning.plots.window import show_film
from dqn_lightning.types import Moment

_LONGEST = 100
"""Steps after which a picture is taken, if the episode has not ended before."""

_SIZE = (12, 3.3)  # inches


class Commands(Trainer):
    """Lightning's Trainer with more commands: each method is one, its arguments are flags."""

    def play(
        self,
        model: DQNModule,
        datamodule: DQNDataModule,
        ckpt_path: str | None = None,
        film: str | None = None,
        episodes: int = 1,
        fps: float = 25.0,
    ) -> None:
        """Play greedily in a window, or write a film: the picture beside the action values.

        Args:
            model: Has the weights that play, if there is no checkpoint.
            datamodule: Makes the environment, as for a test; episode i starts with `test_seed + i`.
            ckpt_path: Checkpoint whose weights play.
            film: File to write, as `film.gif`; also `.webp`, or `.mp4` with the extra `video`. A
                window is opened if None.
            episodes: How many are played.
            fps: Frames in a second, at most; steps in between are left out.

        Raises:
            ConfigError: If the environment cannot draw, the film cannot be written, or there is no
                display.
        """
        for name, value in (("episodes", episodes), ("fps", fps)):
            if not value > 0:
                raise ConfigError(f"--{name}: must be positive, got {value}")
        if film is not None:
            check_film(Path(film))
        elif not has_display():
            raise ConfigError("--film: there is no display; name a file, as --film film.gif")
        if ckpt_path is not None:
            model.load_state_dict(read_checkpoint(Path(ckpt_path))["state_dict"])
        collector = datamodule.drawing_collector()
        camera = Camera(collector.envs.metadata.get("render_fps"), fps)
        name = datamodule.factory.env_id + (", untrained weights" if ckpt_path is None else "")

        def played() -> Iterator[Shot]:
            for number in range(episodes):
                seed = datamodule.test_seed + number
                moments = _told(play_episode(collector, model.q_values, seed), name)
                yield from camera.shots(moments, f"episode {number + 1}")

        if film is None:
            show_film(name, played())
        else:
            _write_film(Path(film), played())

    def screen(self, model: DQNModule, datamodule: DQNDataModule, out: str | None = None) -> None:
        """Show what the environment draws, what is stored of it and what the network gets.

        Args:
            model: An untrained network will do.
            datamodule: Makes the environment, which must draw (render_mode rgb_array).
            out: Picture to write, as `screen.png`; a window is opened if None.

        Raises:
            ConfigError: If the observations are no pictures, or there is no display.
        """
        if out is None and not has_windows():
            raise ConfigError("--out: there is no display; name a file, as --out screen.png")
        screen = look(model, datamodule)
        if out is None:
            _show(screen)
        else:
            _save(screen, Path(out))


def look(model: DQNModule, datamodule: DQNDataModule) -> Screen:
    """The moment before an episode ends that is played at random.

    Raises:
        ConfigError: If the observations are no pictures, or the environment does not draw.
    """
    env_id = datamodule.factory.env_id
    if len(datamodule.obs_shape) != 3:
        raise ConfigError(
            f"screen: the observations of {env_id} are no pictures but {datamodule.obs_shape}; "
            "see configs/pytorch_tutorial.yaml for some that are"
        )
    collector = datamodule.eval_collector(num_envs=1, epsilon=1.0)
    if collector.envs.render_mode != "rgb_array":
        raise ConfigError(
            f"screen: {env_id} does not draw; add --data.env_kwargs.render_mode rgb_array"
        )
    collector.reset(datamodule.eval_seed)
    channels = datamodule.obs_shape[0] // datamodule.frame_stack
    for _ in range(_LONGEST):
        stack = torch.as_tensor(collector.replay.current_obs()).clone()
        (rendered,) = cast(Any, collector.envs.render())
        if collector.step(model.greedy_actions):
            break
    network_input = _first_input(model, stack)
    return Screen(rendered, stack[0, -channels:].numpy(), network_input[0].numpy(force=True))


def _first_input(model: DQNModule, obs: Tensor) -> Tensor:
    """What the first layer with weights gets for observations."""
    first = next(m for m in model.online.modules() if any(True for _ in m.parameters(False)))
    inputs: list[Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model.q_values(obs)
    hook.remove()
    (given,) = inputs
    return given if given.ndim == 4 else model.online.observation(obs)


def _told(moments: Iterable[Moment], name: str) -> Iterator[Moment]:
    """The same; at its end, what the episode came to is printed."""
    for moment in moments:
        yield moment
    _print(f"{name}: return [bold]{moment.episode_return:.1f}[/] in {moment.step:,} steps")


def _write_film(path: Path, shots: Iterable[Shot]) -> None:
    try:
        size = write_film(path, shots)
    except OSError as error:
        raise ConfigError(f"--film: {path} cannot be written ({error})") from error
    kilobytes = path.stat().st_size / 1_000
    _print(f"written to {path} ({size.frames:,} frames, {size.seconds:.1f} s, {kilobytes:,.0f} kB)")


def _show(screen: Screen) -> None:
    import matplotlib.pyplot as plt

    draw_screen(plt.figure(figsize=_SIZE, layout="constrained"), screen)
    plt.show()


def _save(screen: Screen, path: Path) -> None:
    figure = Figure(figsize=_SIZE, layout="constrained")
    draw_screen(figure, screen)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # no such folder, or a kind of picture it cannot write
        raise ConfigError(f"--out: {path} cannot be written ({error})") from error
    _print(f"written to {path}")


def _print(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False)
