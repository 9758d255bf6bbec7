"""The window around the cart, drawn without the rest of CartPole's screen.

`CartPoleEnv.render` draws with whole numbers as coordinates, and seen from the window few of them
occur: the pole's top is at one of some fifty places. So what moves, cart and pole, is drawn and
made smaller once for each set of coordinates, and copied from then on.
"""

from functools import cache, lru_cache
from threading import Lock
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray
from PIL import Image

_WIDTH, _HEIGHT, _END, _HALF_POLE = 600, 400, 2.4, 0.5
"""The only CartPole that is drawn: its screen, and what it draws to scale."""

_VIEW = 360
_BOTTOM, _TOP = 80, 240
"""The window: its width, and its rows as CartPole counts them while it draws, upwards."""

_SCALE = _WIDTH / (2 * _END)
_CART_Y, _AXLE = 100, 7.5
_HALF_WIDTH, _HALF_HEIGHT = 25, 15
_POLE = [(-5.0, -5.0), (-5.0, 120.0), (5.0, 120.0), (5.0, -5.0)]
"""In pixels: to a unit of the position; height of the cart, and of the axle above it; half the
cart's size; corners of an upright pole, seen from the axle."""

_REACH = 2
"""Columns on either side of a column that its pixels have a part in, after bicubic resizing."""

_SPRITES = 4096
"""Episodes need 40 to 2 000. A grey one of 40 rows takes 2 kB, a coloured one 4."""

_LUMA = np.array([0.2125, 0.7154, 0.0721])
"""Gymnasium's weights of red, green and blue."""


def in_grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A coloured picture [H, W, 3] as `gymnasium.wrappers.GrayscaleObservation` makes it [H, W, 1].

    >>> in_grey(np.array([[[202, 152, 101]]], np.uint8)).tolist()
    [[[158]]]
    """
    grey: NDArray[np.uint8] = np.sum(picture * _LUMA, axis=-1, keepdims=True).astype(np.uint8)
    return grey


def can_draw(cartpole: Any, width: int) -> bool:
    """Whether it is Gymnasium's own CartPole as it comes, and a column a whole number of pixels."""
    if type(cartpole) is not CartPoleEnv or _VIEW % width:
        return False
    screen = cartpole.screen_width, cartpole.screen_height
    to_scale = cartpole.x_threshold, cartpole.length
    return screen == (_WIDTH, _HEIGHT) and to_scale == (_END, _HALF_POLE)


class CartPolePainter:
    """Draws the patch of a position and an angle, equal to the bit to cutting it out of the screen.

    Args:
        width: Columns of the patch, of which each stands for a whole number of pixels.
        height: Rows of it.
        grey: Whether patches are [height, width, 1] in place of [height, width, 3].
    """

    def __init__(self, width: int, height: int, grey: bool) -> None:
        from pygame import Vector2  # not before it is needed: it takes a while, and prints

        self._upright = [Vector2(corner) for corner in _POLE]
        self._width, self._height, self._grey = width, height, grey
        self._pixels = _VIEW // width  # to a column
        self._canvas = _Canvas()
        self._drawing = Lock()
        self._sprite = lru_cache(_SPRITES)(self._draw_sprite)
        self._background = self._resized(0, width)

    @classmethod
    @cache
    def shared(cls, width: int, height: int, grey: bool) -> "CartPolePainter":
        """The one of all environments of this process: what one has drawn, all have."""
        return cls(width, height, grey)

    def __call__(self, position: float, angle: float) -> NDArray[np.uint8]:
        """The patch [height, width, 3 or 1].

        Args:
            position: Of the cart.
            angle: Of the pole, in radians.
        """
        middle = position * _SCALE + _WIDTH / 2
        left = min(max(int(middle) - _VIEW // 2, 0), _WIDTH - _VIEW)
        corners = [corner.rotate_rad(-angle) for corner in self._upright]
        # Rounded towards 0 on the screen, as there, and only then seen from the window.
        xs = [int(middle), int(middle - _HALF_WIDTH), int(middle + _HALF_WIDTH)]
        xs += [int(x + middle) for x, _ in corners]
        ys = tuple([int(y + _CART_Y + _AXLE) for _, y in corners])
        first, end = self._columns(min(xs) - left, max(xs) - left)
        # A sprite that no edge of the window cuts or comes near to is the same in any column.
        free = first >= _REACH and end <= self._width - _REACH
        moved = first - _REACH if free else 0
        origin = left + moved * self._pixels
        start, sprite = self._sprite(tuple([x - origin for x in xs]), ys)
        start += moved
        patch: NDArray[np.uint8] = self._background.copy()
        patch[:, start : start + sprite.shape[1]] = sprite
        return patch

    def _columns(self, lowest: int, highest: int) -> tuple[int, int]:
        """The columns, and the end of them, that a drawing between these pixels has a part in."""
        first = (lowest - 1) // self._pixels - _REACH  # smooth lines are a pixel wider
        last = (highest + 1) // self._pixels + _REACH
        return first, last + 1

    def _draw_sprite(self, xs: tuple[int, ...], ys: tuple[int, ...]) -> tuple[int, Any]:
        """What is not background, and the column that it begins in."""
        first, end = self._columns(min(xs), max(xs))
        first = min(max(first, 0), self._width - 1)  # a column is left of a cart beyond the edge
        end = max(min(end, self._width), first + 1)
        with self._drawing:
            self._canvas.draw(xs, ys)
            return first, self._resized(first, end)

    def _resized(self, first: int, end: int) -> NDArray[np.uint8]:
        """These columns of the patch, with what the pixels beside them have a part in."""
        box = first * self._pixels, 0, end * self._pixels, _TOP - _BOTTOM
        size = end - first, self._height
        resized = self._canvas.window.resize(size, Image.Resampling.BICUBIC, box=box)
        colours = np.array(resized)[:, :, :3]
        return in_grey(colours) if self._grey else colours


class _Canvas:
    """The window's pixels, drawn by the calls of `CartPoleEnv.render`.

    Attributes:
        window: A view of them as a picture, the right way up.
    """

    def __init__(self) -> None:
        import pygame
        from pygame import gfxdraw

        self._gfx: Any = gfxdraw
        # From row 0 on, for a pole that hangs down: an edge changes the smooth lines that it cuts.
        pixels: Any = np.full((_TOP, _VIEW, 4), 255, np.uint8)
        self._surface = pygame.image.frombuffer(pixels, (_VIEW, _TOP), "RGBX")
        rows, upwards = pixels[_BOTTOM:], -1
        raw = "RGBX", rows.strides[0], upwards
        self.window = Image.frombuffer("RGBX", (_VIEW, len(rows)), rows, "raw", *raw)
        self._draw_track()

    def draw(self, xs: tuple[int, ...], ys: tuple[int, ...]) -> None:
        """Draw the cart and the pole.

        Args:
            xs: Of the cart's middle, its left and right side, and the pole's four corners.
            ys: Of the pole's corners.
        """
        middle, left, right, *pole_xs = xs
        bottom, top = _CART_Y - _HALF_HEIGHT, _CART_Y + _HALF_HEIGHT
        self._surface.fill((255, 255, 255))
        cart = [(left, bottom), (left, top), (right, top), (right, bottom)]
        self._draw_polygon(cart, (0, 0, 0))
        self._draw_polygon(list(zip(pole_xs, ys, strict=True)), (202, 152, 101))
        axle = middle, int(_CART_Y + _AXLE), 5, (129, 132, 203)
        self._gfx.aacircle(self._surface, *axle)
        self._gfx.filled_circle(self._surface, *axle)
        self._draw_track()

    def _draw_polygon(self, corners: list[tuple[int, int]], colour: tuple[int, int, int]) -> None:
        self._gfx.aapolygon(self._surface, corners, colour)
        self._gfx.filled_polygon(self._surface, corners, colour)

    def _draw_track(self) -> None:
        self._gfx.hline(self._surface, 0, _VIEW, _CART_Y, (0, 0, 0))
