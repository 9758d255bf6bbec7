"""Films of episodes: the environment's pictures beside the action values."""

import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from io import BytesIO
from itertools import chain, islice, product
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageSequence

from dqn_lightning.errors import ConfigError
from dqn_lightning.types import Moment

SUFFIXES = (".gif", ".webp", ".mp4")
"""Kinds of films; the last needs the package `imageio_ffmpeg`."""

LAST_S = 1.0
"""Seconds that an episode's last picture stays."""

_LARGEST = 720, 480  # of the environment's picture: width, height
_PANEL, _CAPTION = 240, 32  # width of the action values, height of the line below
_LABELS, _NUMBERS = 36, 84  # columns to the left and to the right of the bars
_MARGIN = 12
_THICKEST, _THINNEST, _LEGIBLE = 34, 4, 13  # heights of a bar's row; with numbers from the last on
_FIRST_FRAMES, _EVERY, _CHOSEN_COLOURS = 40, 8, 128  # which decide on colours, and on how many
_WHITE, _INK, _FAINT = "#ffffff", "#333333", "#d9d9d9"
_GREEDY, _OTHER = "#d55e00", "#56b4e9"


class Shot(NamedTuple):
    """A frame of a film, RGB, and for how many seconds it is shown."""

    frame: Image.Image
    seconds: float


class Camera:
    """Makes the shots of a film.

    Time runs as in the environment: of its steps so many are left out that at most `fps` frames are
    shown in a second.

    Args:
        render_fps: Steps that the environment makes in a second.
        fps: Frames of the film in a second, at most.
    """

    def __init__(self, render_fps: float, fps: float) -> None:
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


class Scale:
    """The span of the bars: from 0 to round numbers beyond all values so far; it only grows."""

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def widen(self, values: NDArray[np.floating[Any]]) -> None:
        """Have room for these."""
        self.low = min(self.low, -_round_up(-float(values.min())))
        self.high = max(self.high, _round_up(float(values.max())))

    def place(self, value: float) -> float:
        """Where a value lies in the span, from 0 to 1.

        >>> scale = Scale()
        >>> scale.widen(np.array([-0.9, 2.7]))
        >>> scale.low, scale.high, scale.place(2.0)
        (-1.0, 3.0, 0.75)
        """
        return (value - self.low) / ((self.high - self.low) or 1.0)

    @property
    def decimals(self) -> int:
        """After the point, so that the largest numbers have four digits."""
        largest = max(-self.low, self.high, 1.0)
        return max(0, 3 - math.floor(math.log10(largest)))


def _round_up(value: float) -> float:
    """The next number with one digit; 0 for those below.

    >>> _round_up(31.4), _round_up(0.02), _round_up(-5.0)
    (40.0, 0.02, 0.0)
    """
    if value <= 0:
        return 0.0
    digit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(round(value / digit, 6)) * digit


def draw_moment(moment: Moment, title: str, scale: Scale) -> Image.Image:
    """A frame: the picture, the action values as bars to its right, a line of text below."""
    picture = _fitted(moment.picture)
    rows = len(moment.q_values)
    height = max(picture.height, 2 * _MARGIN + _LEGIBLE + _THINNEST * rows)
    size = picture.width + _PANEL, height + _CAPTION
    frame = Image.new("RGB", _even(*size), _WHITE)
    frame.paste(picture)
    draw = ImageDraw.Draw(frame)
    draw.line([(picture.width, 0), (picture.width, height)], _FAINT)
    draw.line([(0, height), (frame.width, height)], _FAINT)
    _draw_caption(draw, height, title, moment)
    _draw_bars(draw, picture.width, height, moment, scale)
    return frame


def _fitted(picture: NDArray[np.uint8]) -> Image.Image:
    """Large pictures made smaller, small ones larger, by a whole number so that pixels stay sharp.

    >>> [_fitted(np.zeros((h, w, 3), np.uint8)).size for h, w in ((960, 1440), (210, 160))]
    [(720, 480), (320, 420)]
    """
    image = Image.fromarray(picture)
    share = min(_LARGEST[0] / image.width, _LARGEST[1] / image.height)
    if share < 1:
        size = round(image.width * share), round(image.height * share)
        return image.resize(size, Image.Resampling.LANCZOS)
    factor = int(share)
    size = image.width * factor, image.height * factor
    return image.resize(size, Image.Resampling.NEAREST)


def _even(width: int, height: int) -> tuple[int, int]:
    """The next even numbers, which mp4 needs."""
    return width + width % 2, height + height % 2


def _draw_caption(draw: ImageDraw.ImageDraw, top: int, title: str, moment: Moment) -> None:
    left, font = float(_MARGIN), _font(16)
    for text in (title, f"step {moment.step:,}", f"return {moment.episode_return:,.1f}"):
        draw.text((left, top + _CAPTION // 2), text, _INK, font, anchor="lm")
        left += max(90.0, draw.textlength(text, font)) + 20  # so it stands still as numbers grow


def _draw_bars(
    draw: ImageDraw.ImageDraw, left: int, height: int, moment: Moment, scale: Scale
) -> None:
    """One bar for each action, from the line of 0; that of the action taken in another colour."""
    draw.text((left + _MARGIN, _MARGIN), "action values", _INK, _font(14), anchor="lt")
    top = 2 * _MARGIN + _LEGIBLE
    row = min(_THICKEST, (height - top) // len(moment.q_values))
    start, end = left + _LABELS, left + _PANEL - _NUMBERS
    zero = start + round(scale.place(0.0) * (end - start))
    gap = max(1, row // 6)
    font = _font(min(14, row - 2)) if row >= _LEGIBLE else None
    for action, value in enumerate(moment.q_values.tolist()):
        upper = top + action * row
        tip = start + round(scale.place(value) * (end - start))
        box = [min(zero, tip), upper + gap, max(zero, tip), upper + row - gap]
        draw.rectangle(box, _GREEDY if action == moment.action else _OTHER)
        if font is None:
            continue
        middle = upper + row // 2
        draw.text((start - 8, middle), str(action), _INK, font, anchor="rm")
        number = f"{value:.{scale.decimals}f}"
        draw.text((left + _PANEL - _MARGIN, middle), number, _INK, font, anchor="rm")
    draw.line([(zero, top), (zero, top + row * len(moment.q_values))], _INK)


class Size(NamedTuple):
    """Of a film: its frames, and how many seconds it takes."""

    frames: int
    seconds: float


def check_film(path: Path) -> None:
    """See whether a film can be written there, before it is made.

    Raises:
        ConfigError: If the file's suffix is unknown, its folder missing, or a package.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--film: {path} must end in {', '.join(SUFFIXES[:-1])} or .mp4")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            "--film: .mp4 needs a package that is not installed: pip install -e '.[video]'; "
            ".gif and .webp need none"
        )
    if path.is_dir() or not path.parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ConfigError(f"--film: {path} cannot be written: {why}")


def write_film(path: Path, shots: Iterable[Shot]) -> Size:
    """Write a film; an older one of that name is replaced when the new one is whole.

    Raises:
        OSError: If it cannot be written.
    """
    unfinished = path.with_name(f".tmp-{path.name}")
    try:
        write = _write_mp4 if path.suffix == ".mp4" else _write_animation
        size = write(unfinished, shots)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return size


def gif_of(path: Path) -> bytes:
    """What a film's file holds, as a GIF."""
    content = path.read_bytes()
    if path.suffix == ".gif":
        return content
    gif = BytesIO()
    with Image.open(path) as film:
        frames = [frame.copy() for frame in ImageSequence.Iterator(film)]
    _save_animation(gif, ".gif", list(_indexed(frames)), [f.info["duration"] / 1e3 for f in frames])
    return gif.getvalue()


def _write_animation(path: Path, shots: Iterable[Shot]) -> Size:
    seconds: list[float] = []

    def frames() -> Iterator[Image.Image]:
        for shot in shots:
            seconds.append(shot.seconds)
            yield shot.frame

    indexed = list(_indexed(frames()))
    with path.open("wb") as file:
        _save_animation(file, path.suffix, indexed, seconds)
    return Size(len(seconds), sum(seconds))


def _save_animation(
    file: IO[bytes], suffix: str, frames: list[Image.Image], seconds: Sequence[float]
) -> None:
    # Of GIF `optimize` leaves out what has not changed. WebP at method 0 keeps all of it.
    unit, settings = 1, {"lossless": True, "method": 1, "quality": 20}
    if suffix == ".gif":
        unit, settings = 10, {"optimize": True}
    frames[0].save(
        file,
        suffix[1:],
        save_all=True,
        append_images=frames[1:],
        duration=_durations(seconds, unit),
        loop=0,
        **settings,
    )


def _durations(seconds: Sequence[float], unit: int) -> list[int]:
    """The same in whole units of so many milliseconds, none of which gets lost.

    >>> _durations([1 / 30, 1 / 30, 1 / 30], unit=10)
    [30, 40, 30]
    """
    ends = np.round(np.cumsum(seconds) * 1_000 / unit).astype(int) * unit
    return [int(duration) for duration in np.diff(ends, prepend=0)]


def _indexed(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """The same with at most 255 colours: a byte per pixel, and one colour is left for GIF's use.

    Chosen are those of the first frames. A coarse cube is there for what may come after these.
    """
    rest = iter(frames)
    first = list(islice(rest, _FIRST_FRAMES))
    samples = first[::_EVERY]
    sheet = Image.new("RGB", (first[0].width, first[0].height * len(samples)))
    for number, frame in enumerate(samples):
        sheet.paste(frame, (0, number * frame.height))
    chosen = sheet.quantize(_CHOSEN_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    cube = [85 * level for rgb in product(range(4), repeat=3) for level in rgb]
    # Pillow looks for the nearest in coarse steps: with greys next to white, white would be one.
    levels = [5 * round(level / 5) for level in (chosen.getpalette() or [])[: 3 * _CHOSEN_COLOURS]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*levels, *cube])
    for frame in chain(first, rest):
        yield frame.quantize(palette=palette, dither=Image.Dither.NONE)


def _write_mp4(path: Path, shots: Iterable[Shot]) -> Size:
    """Frames come at a steady rate, that of the first one; one that stays is repeated."""
    import imageio_ffmpeg

    rest = iter(shots)
    first = next(rest)
    fps = 1 / first.seconds
    movie = imageio_ffmpeg.write_frames(str(path), first.frame.size, fps=fps, macro_block_size=2)
    movie.send(None)  # it is a generator that takes frames
    frames = 0
    for shot in chain([first], rest):
        for _ in range(max(1, round(shot.seconds * fps))):
            movie.send(shot.frame.tobytes())
            frames += 1
    movie.close()
    return Size(frames, frames / fps)


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
