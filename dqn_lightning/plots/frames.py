"""The frames of a film: the environment's picture beside the action values."""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dqn_lightning.types import Moment

_LARGEST = 720, 480  # of the environment's picture: width, height
_PANEL, _CAPTION = 240, 32  # width of the action values, height of the line below
_LABELS, _NUMBERS = 36, 84  # columns to the left and to the right of the bars
_MARGIN = 12
_THICKEST, _THINNEST, _LEGIBLE = 34, 4, 13  # heights of a bar's row; with numbers from the last on
_WHITE, _INK, _FAINT = "#ffffff", "#333333", "#d9d9d9"
_GREEDY, _OTHER = "#d55e00", "#56b4e9"


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
        >>> scale.widen(np.array([-0.96, 2.7]))
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


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
