"""Functions and classes that create videos of episodes and write them to files."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from io import BytesIO
from itertools import chain, islice, product
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence

from dqn_lightning.checkpointing.files import atomic_write, check_output
from dqn_lightning.errors import ConfigError
from dqn_lightning.plots.frames import BarScale, draw_step
from dqn_lightning.types import PlayedStep

SUFFIXES = (".gif", ".webp", ".mp4")
"""Supported file suffixes; MP4 requires the package `imageio_ffmpeg`."""

LAST_FRAME_S = 1.0
"""Duration in seconds of the last frame of each episode."""

_PALETTE_FRAMES, _PALETTE_SAMPLES = 40, 10  # first frames, and how many of them are sampled
_NUM_FREQUENT, _NUM_QUANTIZED = 32, 128  # colors in the palette


class TimedFrame(NamedTuple):
    """Video frame and its duration.

    Attributes:
        frame: RGB image.
        seconds: Duration in seconds for which the frame is shown.
    """

    frame: Image.Image
    seconds: float


class FrameSampler:
    """Sampler that selects and draws the frames of a video that plays in real time.

    If `render_fps` exceeds the maximum number of frames per second, some steps are not shown.
    All episodes of a video share the same scale for the action-value bars.

    Args:
        render_fps: Environment steps per second, which is `render_fps` in the environment's
            metadata; if None (unknown), each step becomes one frame.
        fps: Maximum number of frames per second.

    Attributes:
        fps: Actual number of frames per second.
    """

    def __init__(self, render_fps: float | None, fps: float) -> None:
        render_fps = render_fps or fps
        self.fps = min(render_fps, fps)
        self._steps_per_frame = render_fps / self.fps
        self._scale = BarScale()

    def timed_frames(self, played_steps: Iterable[PlayedStep], title: str) -> Iterator[TimedFrame]:
        """Draw and yield the frames of an episode; the first and the last step are always included.

        Args:
            played_steps: All steps of the episode.
            title: Text at the start of the caption, before the step and the return.
        """
        next_step = 0.0
        for played in played_steps:
            self._scale.widen(played.q_values)
            is_last = played.action is None
            if played.step < next_step and not is_last:
                continue
            next_step += self._steps_per_frame
            yield TimedFrame(
                draw_step(played, title, self._scale), LAST_FRAME_S if is_last else 1 / self.fps
            )


class VideoSize(NamedTuple):
    """Number of frames in a video, and its duration in seconds."""

    frames: int
    seconds: float


def check_video_path(path: Path) -> None:
    """Check that a video file can be written; called before any episode is played.

    Raises:
        ConfigError: If the suffix is not supported, the directory does not exist, or a required
            package is missing.
    """
    check_output("--out", path, SUFFIXES)
    if path.suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            "--out: .mp4 requires the package imageio-ffmpeg (pip install -e '.[video]'); .gif and "
            ".webp do not"
        )


def write_video(path: Path, timed_frames: Iterable[TimedFrame]) -> VideoSize:
    """Write a video file atomically, and return the size of the video.

    Args:
        path: File to write; its suffix must be one of `SUFFIXES`.
        timed_frames: Frames of the video, at least one.

    Raises:
        OSError: If the file cannot be written.
    """
    write = _write_mp4 if path.suffix == ".mp4" else _write_animation
    with atomic_write(path) as unfinished:
        return write(unfinished, timed_frames)


def read_as_gif(path: Path) -> bytes:
    """Read a GIF or WebP video, and return it as the bytes of a GIF file."""
    content = path.read_bytes()
    if path.suffix == ".gif":
        return content
    gif = BytesIO()
    with Image.open(path) as video:
        frames = ImageSequence.Iterator(video)
        # Pillow reads the duration of a frame when it is decoded.
        timed_frames = (
            TimedFrame(frame.convert("RGB"), frame.info.get("duration", 0) / 1e3)
            for frame in frames
        )
        _save_animation(gif, ".gif", timed_frames)
    return gif.getvalue()


def _write_animation(path: Path, timed_frames: Iterable[TimedFrame]) -> VideoSize:
    with path.open("wb") as file:
        return _save_animation(file, path.suffix, timed_frames)


def _save_animation(file: IO[bytes], suffix: str, timed_frames: Iterable[TimedFrame]) -> VideoSize:
    seconds: list[float] = []

    def frames() -> Iterator[Image.Image]:
        for timed_frame in timed_frames:
            seconds.append(timed_frame.seconds)
            yield timed_frame.frame

    first, *rest = _quantize(frames())
    settings: dict[str, int]
    if suffix == ".gif":
        unit_ms, settings = 10, {"optimize": True}
    else:  # WebP; method 0 is faster but makes large files
        unit_ms, settings = 1, {"lossless": True, "method": 1, "quality": 20}
    durations = _round_durations(seconds, unit_ms)
    first.save(
        file, suffix[1:], save_all=True, append_images=rest, duration=durations, loop=0, **settings
    )
    return VideoSize(len(seconds), sum(seconds))


def _round_durations(seconds: Sequence[float], unit_ms: int) -> list[int]:
    """Convert durations to milliseconds, and round them to multiples of a unit.

    Rounding errors do not accumulate.

    >>> _round_durations([1 / 30, 1 / 30, 1 / 30], unit_ms=10)
    [30, 40, 30]
    """
    ends = np.round(np.cumsum(seconds) * 1_000 / unit_ms).astype(int) * unit_ms
    return [int(duration) for duration in np.diff(ends, prepend=0)]


def _quantize(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """Convert frames to a shared palette of at most 255 colors.

    GIF allows 256 colors, but one of them is needed for transparency.
    """
    rest = iter(frames)
    first = list(islice(rest, _PALETTE_FRAMES))
    palette = Image.new("P", (1, 1))
    samples = first[:: max(1, len(first) // _PALETTE_SAMPLES)]
    palette.putpalette([level for color in _choose_palette(samples) for level in color])
    for frame in chain(first, rest):
        yield frame.quantize(palette=palette, dither=Image.Dither.NONE)


def _choose_palette(frames: Sequence[Image.Image]) -> Iterable[tuple[int, ...]]:
    """Choose the RGB colors of a video's palette, based on a sample of the frames.

    The palette consists of the most frequent colors, a median-cut quantization of all colors, and
    a coarse color cube for colors that first appear in later frames. Pillow does not distinguish
    colors within the same block of 8 levels per channel, so only the first color of each block is
    kept; otherwise white could become light gray.
    """
    width, height = frames[0].width // 2, frames[0].height // 2  # sample a quarter of the pixels
    sheet = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        sample = frame.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(sample, (0, number * height))
    counted: Any = sheet.getcolors(sheet.width * sheet.height)
    frequent = [color for _, color in sorted(counted, reverse=True)[:_NUM_FREQUENT]]
    quantized = sheet.quantize(_NUM_QUANTIZED, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    levels = (quantized.getpalette() or [])[: 3 * _NUM_QUANTIZED]
    others = zip(levels[::3], levels[1::3], levels[2::3], strict=True)
    distinct: dict[tuple[int, ...], tuple[int, ...]] = {}
    for color in chain(frequent, others, product((0, 85, 170, 255), repeat=3)):
        distinct.setdefault(tuple(level // 8 for level in color), color)
    return distinct.values()


def _write_mp4(path: Path, timed_frames: Iterable[TimedFrame]) -> VideoSize:
    """Write an MP4 file, whose frame rate is determined by the duration of the first frame.

    Frames with a longer duration are repeated.
    """
    import imageio_ffmpeg

    rest = iter(timed_frames)
    first = next(rest)
    fps = 1 / first.seconds
    writer = imageio_ffmpeg.write_frames(str(path), first.frame.size, fps=fps, macro_block_size=2)
    frames = 0
    with closing(writer):
        writer.send(None)  # start the generator
        for timed_frame in chain([first], rest):
            for _ in range(max(1, round(timed_frame.seconds * fps))):
                writer.send(timed_frame.frame.tobytes())
                frames += 1
    return VideoSize(frames, frames / fps)
