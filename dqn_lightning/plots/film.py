"""Films of episodes, and the files they are written to."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from io import BytesIO
from itertools import chain, islice, product
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence

from dqn_lightning.errors import ConfigError
from dqn_lightning.outputs import check_output, whole
from dqn_lightning.plots.frames import Scale, draw_moment
from dqn_lightning.types import Moment

SUFFIXES = (".gif", ".webp", ".mp4")
"""Kinds of films; the last needs the package `imageio_ffmpeg`."""

LAST_S = 1.0
"""Seconds that an episode's last picture stays."""

_FIRST_FRAMES, _SAMPLES = 40, 10  # which decide on colours
_FREQUENT, _OTHERS = 32, 128  # colours


class Shot(NamedTuple):
    """A frame of a film, RGB, and for how many seconds it is shown."""

    frame: Image.Image
    seconds: float


class Camera:
    """Makes the shots of a film.

    Time runs as in the environment: of its steps so many are left out that at most `fps` frames are
    shown in a second.

    Args:
        render_fps: Steps that the environment makes in a second; `fps` if it does not say.
        fps: Frames of the film in a second, at most.
    """

    def __init__(self, render_fps: float | None, fps: float) -> None:
        render_fps = render_fps or fps
        self.fps = min(render_fps, fps)
        self._steps_per_frame = render_fps / self.fps
        self._scale = Scale()

    def shots(self, moments: Iterable[Moment], title: str) -> Iterator[Shot]:
        """An episode's: its first moment, those that fall due in between, and its last one.

        Args:
            moments: All of the episode.
            title: What stands before step and return in the line below the picture.
        """
        due = 0.0
        for moment in moments:
            self._scale.widen(moment.q_values)
            is_last = moment.action is None
            if moment.step < due and not is_last:
                continue
            due += self._steps_per_frame
            yield Shot(draw_moment(moment, title, self._scale), LAST_S if is_last else 1 / self.fps)


class Size(NamedTuple):
    """Of a film: its frames, and how many seconds it takes."""

    frames: int
    seconds: float


def check_film(path: Path) -> None:
    """See whether a film can be written there, before it is made.

    Raises:
        ConfigError: If the file's suffix is unknown, its folder missing, or a package.
    """
    check_output("--film", path, SUFFIXES)
    if path.suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            "--film: .mp4 needs a package that is not installed: pip install -e '.[video]'; "
            ".gif and .webp need none"
        )


def write_film(path: Path, shots: Iterable[Shot]) -> Size:
    """Write a film; an older one of that name is replaced when the new one is whole.

    Raises:
        OSError: If it cannot be written.
    """
    write = _write_mp4 if path.suffix == ".mp4" else _write_animation
    with whole(path) as unfinished:
        return write(unfinished, shots)


def gif_of(path: Path) -> bytes:
    """What a film's file holds, as a GIF."""
    content = path.read_bytes()
    if path.suffix == ".gif":
        return content
    gif = BytesIO()
    with Image.open(path) as film:
        frames = ImageSequence.Iterator(film)
        # Pillow knows a frame's duration once it is decoded.
        shots = (
            Shot(frame.convert("RGB"), frame.info.get("duration", 0) / 1e3) for frame in frames
        )
        _save_animation(gif, ".gif", shots)
    return gif.getvalue()


def _write_animation(path: Path, shots: Iterable[Shot]) -> Size:
    with path.open("wb") as file:
        return _save_animation(file, path.suffix, shots)


def _save_animation(file: IO[bytes], suffix: str, shots: Iterable[Shot]) -> Size:
    seconds: list[float] = []

    def frames() -> Iterator[Image.Image]:
        for shot in shots:
            seconds.append(shot.seconds)
            yield shot.frame

    first, *rest = _indexed(frames())
    unit, settings = 1, {"lossless": True, "method": 1, "quality": 20}  # at method 0 it is large
    if suffix == ".gif":
        unit, settings = 10, {"optimize": True}  # which leaves out what has not changed
    durations = _durations(seconds, unit)
    first.save(
        file, suffix[1:], save_all=True, append_images=rest, duration=durations, loop=0, **settings
    )
    return Size(len(seconds), sum(seconds))


def _durations(seconds: Sequence[float], unit: int) -> list[int]:
    """The same in whole units of so many milliseconds, none of which gets lost.

    >>> _durations([1 / 30, 1 / 30, 1 / 30], unit=10)
    [30, 40, 30]
    """
    ends = np.round(np.cumsum(seconds) * 1_000 / unit).astype(int) * unit
    return [int(duration) for duration in np.diff(ends, prepend=0)]


def _indexed(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """The same with at most 255 colours: a byte per pixel, and one colour is left for GIF's use."""
    rest = iter(frames)
    first = list(islice(rest, _FIRST_FRAMES))
    palette = Image.new("P", (1, 1))
    samples = first[:: max(1, len(first) // _SAMPLES)]
    palette.putpalette([level for colour in _colours(samples) for level in colour])
    for frame in chain(first, rest):
        yield frame.quantize(palette=palette, dither=Image.Dither.NONE)


def _colours(frames: Sequence[Image.Image]) -> Iterable[tuple[int, ...]]:
    """The most frequent colours, those that stand for the rest, and a cube for what may come.

    They are not nearer to each other than Pillow can tell apart, or white would be a light grey.
    """
    width, height = frames[0].width // 2, frames[0].height // 2  # a quarter of the pixels will do
    sheet = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        sample = frame.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(sample, (0, number * height))
    counted: Any = sheet.getcolors(sheet.width * sheet.height)
    frequent = [colour for _, colour in sorted(counted, reverse=True)[:_FREQUENT]]
    quantized = sheet.quantize(_OTHERS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    levels = (quantized.getpalette() or [])[: 3 * _OTHERS]
    others = zip(levels[::3], levels[1::3], levels[2::3], strict=True)
    apart: dict[tuple[int, ...], tuple[int, ...]] = {}
    for colour in chain(frequent, others, product((0, 85, 170, 255), repeat=3)):
        apart.setdefault(tuple(level // 8 for level in colour), colour)
    return apart.values()


def _write_mp4(path: Path, shots: Iterable[Shot]) -> Size:
    """Frames come at a steady rate, that of the first one; one that stays is repeated."""
    import imageio_ffmpeg

    rest = iter(shots)
    first = next(rest)
    fps = 1 / first.seconds
    movie = imageio_ffmpeg.write_frames(str(path), first.frame.size, fps=fps, macro_block_size=2)
    frames = 0
    with closing(movie):
        movie.send(None)  # it is a generator that takes frames
        for shot in chain([first], rest):
            for _ in range(max(1, round(shot.seconds * fps))):
                movie.send(shot.frame.tobytes())
                frames += 1
    return Size(frames, frames / fps)
