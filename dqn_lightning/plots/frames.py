"""Draw video frames that show the rendered image next to the action values."""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dqn_lightning.types import PlayedStep

_MAX_IMAGE_SIZE = 720, 480  # width and height of the rendered image
_PANEL_WIDTH, _CAPTION_HEIGHT = 240, 32  # panel of action values; text below the image
_LABEL_WIDTH, _NUMBER_WIDTH = 36, 84  # to the left and to the right of the bars
_MARGIN = 12
_MAX_ROW, _MIN_ROW = 34, 4  # height of the row of one action
_MIN_TEXT_ROW = 13  # height below which a row has no text
_BACKGROUND_COLOR, _TEXT_COLOR, _LINE_COLOR = "#ffffff", "#333333", "#d9d9d9"
_CHOSEN_COLOR, _OTHER_COLOR = "#d55e00", "#56b4e9"


class BarScale:
    """Scale for the action-value bars, with a range that contains 0 and all values seen so far.

    The lower and the upper limit are rounded away from 0 to one significant digit. The range never
    shrinks.

    Attributes:
        low: Lower limit, 0 or negative.
        high: Upper limit, 0 or positive.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def widen(self, values: NDArray[np.floating[Any]]) -> None:
        """Extend the range so that it contains the given values."""
        self.low = min(self.low, -_round_up(-float(values.min())))
        self.high = max(self.high, _round_up(float(values.max())))

    def position(self, value: float) -> float:
        """Return the relative position of a value in the range, from 0 to 1.

        >>> scale = BarScale()
        >>> scale.widen(np.array([-0.96, 2.7]))
        >>> scale.low, scale.high, scale.position(2.0)
        (-1.0, 3.0, 0.75)
        """
        return (value - self.low) / ((self.high - self.low) or 1.0)

    @property
    def decimals(self) -> int:
        """Number of decimals to show: 3 if the larger limit is below 10, 2 below 100, and so on."""
        largest = max(-self.low, self.high, 1.0)
        return max(0, 3 - math.floor(math.log10(largest)))


def _round_up(value: float) -> float:
    """Round up to one significant digit; return 0 for negative values.

    >>> _round_up(31.4), _round_up(0.02), _round_up(-5.0)
    (40.0, 0.02, 0.0)
    """
    if value <= 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(round(value / unit, 6)) * unit


def draw_step(played: PlayedStep, title: str, scale: BarScale) -> Image.Image:
    """Draw a video frame with the rendered image, the action values as bars, and a caption.

    Args:
        played: Step of an episode to draw.
        title: Text at the start of the caption, before the step and the return.
        scale: Scale of the bars; its range must contain the action values of this step.
    """
    image = _fit(played.image)
    rows = len(played.q_values)
    height = max(image.height, 2 * _MARGIN + _MIN_TEXT_ROW + _MIN_ROW * rows)
    size = image.width + _PANEL_WIDTH, height + _CAPTION_HEIGHT
    frame = Image.new("RGB", _round_up_to_even(*size), _BACKGROUND_COLOR)
    frame.paste(image)
    draw = ImageDraw.Draw(frame)
    draw.line([(image.width, 0), (image.width, height)], _LINE_COLOR)
    draw.line([(0, height), (frame.width, height)], _LINE_COLOR)
    _draw_caption(draw, height, title, played)
    _draw_bars(draw, image.width, height, played, scale)
    return frame


def _fit(pixels: NDArray[np.uint8]) -> Image.Image:
    """Scale an image [H, W, 3] to fit the maximum size, and keep its aspect ratio.

    A larger image is shrunk. A smaller one is enlarged by an integer factor with sharp pixel edges.

    >>> [_fit(np.zeros((h, w, 3), np.uint8)).size for h, w in ((960, 1440), (210, 160))]
    [(720, 480), (320, 420)]
    """
    image = Image.fromarray(pixels)
    factor = min(_MAX_IMAGE_SIZE[0] / image.width, _MAX_IMAGE_SIZE[1] / image.height)
    if factor < 1:
        size = round(image.width * factor), round(image.height * factor)
        return image.resize(size, Image.Resampling.LANCZOS)
    size = image.width * int(factor), image.height * int(factor)
    return image.resize(size, Image.Resampling.NEAREST)


def _round_up_to_even(width: int, height: int) -> tuple[int, int]:
    """Round the width and the height up to even numbers, because MP4 requires them."""
    return width + width % 2, height + height % 2


def _draw_caption(draw: ImageDraw.ImageDraw, top: int, title: str, played: PlayedStep) -> None:
    left, font = float(_MARGIN), _font(16)
    for text in (title, f"step {played.step:,}", f"return {played.episode_return:,.1f}"):
        draw.text((left, top + _CAPTION_HEIGHT // 2), text, _TEXT_COLOR, font, anchor="lm")
        width = max(
            90.0, draw.textlength(text, font)
        )  # the next text stays in place as numbers grow
        left += width + 20


def _draw_bars(
    draw: ImageDraw.ImageDraw, left: int, height: int, played: PlayedStep, scale: BarScale
) -> None:
    """Draw one bar per action, starting at 0; the bar of the action taken has a different color."""
    draw.text((left + _MARGIN, _MARGIN), "action values", _TEXT_COLOR, _font(14), anchor="lt")
    top = 2 * _MARGIN + _MIN_TEXT_ROW
    row = min(_MAX_ROW, (height - top) // len(played.q_values))
    start, end = left + _LABEL_WIDTH, left + _PANEL_WIDTH - _NUMBER_WIDTH
    zero = start + round(scale.position(0.0) * (end - start))
    gap = max(1, row // 6)
    font = _font(min(14, row - 2)) if row >= _MIN_TEXT_ROW else None
    for action, value in enumerate(played.q_values.tolist()):
        upper = top + action * row
        tip = start + round(scale.position(value) * (end - start))
        box = [min(zero, tip), upper + gap, max(zero, tip), upper + row - gap]
        draw.rectangle(box, _CHOSEN_COLOR if action == played.action else _OTHER_COLOR)
        if font is None:
            continue
        middle = upper + row // 2
        draw.text((start - 8, middle), str(action), _TEXT_COLOR, font, anchor="rm")
        number = f"{value:.{scale.decimals}f}"
        draw.text((left + _PANEL_WIDTH - _MARGIN, middle), number, _TEXT_COLOR, font, anchor="rm")
    draw.line([(zero, top), (zero, top + row * len(played.q_values))], _TEXT_COLOR)


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
