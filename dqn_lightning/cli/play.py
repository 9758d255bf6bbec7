"""The command `play`, which shows episodes in a window or writes them to a video."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_lightning.cli.arguments import check_positive
from dqn_lightning.cli.checkpoint import load_weights, untrained_note
from dqn_lightning.envs.factory import has_display
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.episodes import play_episode
from dqn_lightning.plots.video import FrameSampler, TimedFrame, check_video_path, write_video
from dqn_lightning.plots.window import show_video
from dqn_lightning.types import PlayedStep

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI


def play(
    cli: "DQNCLI",
    ckpt_path: str | None = None,
    out: str | None = None,
    episodes: int = 1,
    fps: float = 25.0,
) -> None:
    """Play episodes greedily; show the images and action values in a window or a video.

    Args:
        cli: The command line.
        ckpt_path: Checkpoint to use; if null, use untrained weights (requires `--config`).
        out: Video file to write: `.gif`, `.webp`, or `.mp4` (requires the extra `video`); if null,
            open a window.
        episodes: Number of episodes; episode i starts with seed `data.evaluation.test_seed` + i.
        fps: Maximum number of frames per second. If the environment takes more steps per second,
            not every step is shown.

    Raises:
        ConfigError: If a flag is invalid, the environment cannot render images, the video cannot be
            written, or there is no display for a window.
    """
    check_positive("episodes", episodes)
    check_positive("fps", fps)
    if out is not None:
        check_video_path(Path(out))
    elif not has_display():
        raise ConfigError("--out: there is no display; name a file, such as --out video.gif")
    load_weights(cli)
    frames = _play_episodes(cli, episodes, fps)
    if out is None:
        show_video(_title(cli), frames)
    else:
        _write(cli, Path(out), frames)


def _play_episodes(cli: "DQNCLI", episodes: int, fps: float) -> Iterator[TimedFrame]:
    collector = cli.datamodule.collectors.rendering()
    sampler = FrameSampler(collector.envs.metadata.get("render_fps"), fps)
    settings = cli.datamodule.evaluation
    for number in range(episodes):
        seed = settings.test_seed + number
        steps = play_episode(collector, cli.model.q_values, seed, settings.max_steps)
        yield from sampler.timed_frames(_report_return(cli, steps), f"episode {number + 1}")


def _report_return(cli: "DQNCLI", steps: Iterable[PlayedStep]) -> Iterator[PlayedStep]:
    """Yield the steps of an episode, and print the return after the last step."""
    for step in steps:
        yield step
    cut = ", cut short (data.evaluation.max_steps)" if step.cut_short else ""
    cli.console.print(
        f"{_title(cli)}: return [bold]{step.episode_return:.1f}[/] in {step.step:,} steps{cut}",
        highlight=False,
    )


def _title(cli: "DQNCLI") -> str:
    return cli.datamodule.env.id + untrained_note(cli)


def _write(cli: "DQNCLI", path: Path, frames: Iterable[TimedFrame]) -> None:
    try:
        size = write_video(path, frames)
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written ({error})") from error
    kilobytes = path.stat().st_size / 1_000
    cli.console.print(
        f"written to {path} ({size.frames:,} frames, {size.seconds:.1f} s, {kilobytes:,.0f} kB)",
        highlight=False,
    )
