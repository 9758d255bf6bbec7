"""The commands beside Lightning's own."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from dqn_lightning.arguments import read_checkpoint
from dqn_lightning.datamodule import MAX_EVAL_ENVS, DQNDataModule
from dqn_lightning.envs.factory import has_display
from dqn_lightning.errors import ConfigError
from dqn_lightning.exporting import SUFFIXES, Format, check_export, export, write_spaces
from dqn_lightning.health import look_inside
from dqn_lightning.module import DQNModule
from dqn_lightning.outputs import whole
from dqn_lightning.playing import play_episode
from dqn_lightning.plots.embedding import (
    Colouring,
    Method,
    Points,
    check_embedding,
    draw_points,
    embed,
    write_page,
)
from dqn_lightning.plots.episodes import has_windows
from dqn_lightning.plots.film import Camera, Shot, check_film, write_film
from dqn_lightning.plots.screen import Screen, draw_screen
from dqn_lightning.plots.window import show_film
from dqn_lightning.types import Moment
from dqn_lightning.visits import Visit, play_visits, sample_visits

OUR_COMMANDS = ("play", "screen", "embed", "export")
"""Those that Lightning's Trainer has not."""

_LONGEST = 100
"""Steps after which a picture is taken, if the episode has not ended before."""

_SIZE = (12, 3.3)  # inches

_MIN_POINTS = 4  # of an embedding: one more than dimensions

_NUM_CHECKED = 256
"""Visited states that an exported network is compared on."""

_AT_ONCE = 256
"""States that the network is given together."""


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
        name = datamodule.factory.env_id + _weights(ckpt_path)

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

    def embed(
        self,
        model: DQNModule,
        datamodule: DQNDataModule,
        ckpt_path: str | None = None,
        method: Method = "pca",
        color: Colouring = "value",
        points: int = 2_000,
        episodes: int = 10,
        out: str | None = None,
    ) -> None:
        """Show the network's features of visited states as points in three dimensions.

        Features are those of the last hidden layer before the head; a dueling head has one more.

        Args:
            model: Has the weights that play, if there is no checkpoint.
            datamodule: Makes the environments, as for a test; `eval_epsilon` is heeded.
            ckpt_path: Checkpoint whose weights play.
            method: `pca`, the three directions in which the features vary most; `tsne` needs the
                extra `plots`.
            color: What colours stand for: the greatest action value, or the state's episode, step
                or greedy action. On a page it can be changed.
            points: How many of the visited states are drawn.
            episodes: How many are played.
            out: File to write, a page that turns (`.html`, needs the extra `plots`) or a picture
                (`.png`); if None both, beside the checkpoint.

        Raises:
            ConfigError: If the files cannot be written, or fewer than four states were visited.
        """
        if points < _MIN_POINTS:
            raise ConfigError(f"--points: must be at least {_MIN_POINTS}, got {points}")
        folder = Path() if ckpt_path is None else Path(ckpt_path).parent
        files = [folder / f"embedding{kind}" for kind in (".html", ".png")]
        if out is not None:
            files = [Path(out)]
        check_embedding(method, files)
        seen = _visits(model, datamodule, ckpt_path, episodes)
        sampled = sample_visits(seen, points, np.random.default_rng(0))
        if len(sampled) < _MIN_POINTS:
            raise ConfigError(
                f"--episodes: too few states were visited ({len(sampled)}); play more"
            )
        is_picture = len(datamodule.obs_shape) == 3
        channels = datamodule.frame_shape[0] if is_picture else None
        embedded = _points(model, sampled, method, channels)
        title = f"{datamodule.factory.env_id}: {len(sampled):,} states of {episodes} episode"
        title += "s" * (episodes > 1) + _weights(ckpt_path)
        for file in files:
            try:
                with whole(file) as unfinished:
                    _write_points(unfinished, embedded, color, title)
            except OSError as error:
                raise ConfigError(f"--out: {file} cannot be written ({error})") from error
            _print(f"written to {file} ({file.stat().st_size / 1e6:.1f} MB)")

    def export(
        self,
        model: DQNModule,
        datamodule: DQNDataModule,
        ckpt_path: str | None = None,
        format: Format = "onnx",
        out: str | None = None,
    ) -> None:
        """Write the network that acts for use without this project: observations to action values.

        The file is read again and compared with the network on states that it visits.

        Args:
            model: Has the weights, if there is no checkpoint.
            datamodule: Makes the environment that is played, as for a test.
            ckpt_path: Checkpoint whose weights are written.
            format: `onnx`; `torch_export`, a program for `torch.export.load`; or `safetensors`, the
                parameters alone, with the spaces in a `.spaces.json` beside them. `onnx` and
                `safetensors` need the extra `export`.
            out: File to write; if None it is beside the checkpoint and has its name.

        Raises:
            ConfigError: If it cannot be written, or computes something else when read again.
        """
        name = datamodule.factory.env_id.replace("/", "-").replace(":", "-")
        beside = Path(name) if ckpt_path is None else Path(ckpt_path).with_suffix("")
        path = beside.with_name(beside.name + SUFFIXES[format]) if out is None else Path(out)
        check_export(format, path)
        seen = islice(_visits(model, datamodule, ckpt_path, episodes=_NUM_CHECKED), _NUM_CHECKED)
        obs = torch.stack([visit.obs for visit in seen])
        try:
            parity = export(model.acting, obs, format, path)
            if format == "safetensors":
                write_spaces(path.with_suffix(".spaces.json"), _spaces(datamodule))
        except OSError as error:
            raise ConfigError(f"--out: {path} cannot be written ({error})") from error
        kilobytes = path.stat().st_size / 1_000
        _print(
            f"written to {path} ({kilobytes:,.0f} kB{_weights(ckpt_path)}); on {len(obs)} visited "
            f"states action values up to {parity.largest:.3g} differ by at most "
            f"{parity.difference:.1e}"
        )


def _visits(
    model: DQNModule, datamodule: DQNDataModule, ckpt_path: str | None, episodes: int
) -> Iterator[Visit]:
    """States that the network visits in episodes as a test has them."""
    if episodes < 1:
        raise ConfigError(f"--episodes: must be positive, got {episodes}")
    if ckpt_path is not None:
        model.load_state_dict(read_checkpoint(Path(ckpt_path))["state_dict"])
    num_envs = min(episodes, MAX_EVAL_ENVS)
    collector = datamodule.eval_collector(num_envs, datamodule.eval_epsilon)
    return play_visits(collector, model.greedy_actions, episodes, datamodule.test_seed)


def _points(model: DQNModule, visits: list[Visit], method: Method, channels: int | None) -> Points:
    """Visits as points; of pictures so many channels, the newest, are shown."""
    obs = torch.stack([visit.obs for visit in visits])
    looks = [look_inside(model.acting, o.to(model.device)) for o in torch.split(obs, _AT_ONCE)]
    places, axes = embed(torch.cat([features for *_, features in looks]), method)
    q_values = torch.cat([output.q_values for output, *_ in looks]).numpy(force=True)
    newest = obs if channels is None else obs[:, -channels:]
    episode, step = np.array([(visit.episode, visit.step) for visit in visits]).T
    return Points(places, axes, newest.numpy(), q_values, episode, step)


def _write_points(path: Path, points: Points, color: Colouring, title: str) -> None:
    if path.suffix == ".html":
        write_page(path, points, color, title)
    else:
        figure = Figure(figsize=(8, 6), layout="constrained")
        draw_points(figure, points, color)
        figure.suptitle(title)
        figure.savefig(path, dpi=150)


def _spaces(datamodule: DQNDataModule) -> dict[str, Any]:
    """What a network is made for; action 0 is `first_action` to the environment."""
    env = datamodule.factory.make()
    first_action = int(cast(Any, env.action_space).start)
    env.close()
    return {
        "env_id": datamodule.factory.env_id,
        "obs_shape": list(datamodule.obs_shape),
        "obs_dtype": str(datamodule.obs_dtype).removeprefix("torch."),
        "obs_classes": datamodule.obs_classes,
        "frame_stack": datamodule.frame_stack,
        "num_actions": datamodule.num_actions,
        "first_action": first_action,
    }


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
    channels = datamodule.frame_shape[0]
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


def _weights(ckpt_path: str | None) -> str:
    return ", untrained weights" if ckpt_path is None else ""


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
