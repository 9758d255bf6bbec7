"""Draw the window around the cart without rendering the rest of CartPole's screen.

`CartPoleEnv.render` rounds coordinates to integers. Relative to the window, only a few coordinates
occur: the top of the pole, for example, has about fifty positions. Therefore, the cart and the pole
are drawn and downsampled only once for each set of coordinates. The resulting partial image, called
a sprite, is cached and later copied into the complete images.
"""

from functools import cache, lru_cache
from threading import Lock
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray
from PIL import Image

_WIDTH, _HEIGHT, _END, _HALF_POLE = 600, 400, 2.4, 0.5
"""Screen width and height, position limit and half the pole length that can be drawn."""

_VIEW = 360
_BOTTOM, _TOP = 80, 240
"""Width of the window; its bottom and top edge in pixels above the bottom of the screen."""

_SCALE = _WIDTH / (2 * _END)
_CART_Y, _AXLE = 100, 7.5
_HALF_WIDTH, _HALF_HEIGHT = 25, 15
_POLE = [(-5.0, -5.0), (-5.0, 120.0), (5.0, 120.0), (5.0, -5.0)]
"""Dimensions in pixels: length of one position unit; height of the cart's center above the bottom
of the screen; height of the axle above the cart's center; half the cart's width and height; corners
of an upright pole relative to the axle."""

_REACH = 2
"""Number of image columns on each side that a pixel affects in bicubic downsampling."""

_SPRITES = 4096
"""Maximum number of cached sprites. Training needs 40 to 2,000. With 40 rows, a grayscale sprite
takes 2 kB and a color sprite 4 kB."""

_LUMA = np.array([0.2125, 0.7154, 0.0721])
"""Gymnasium's weights for red, green and blue in the conversion to grayscale."""


def to_grayscale(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert an image [H, W, 3] to [H, W, 1] exactly as `GrayscaleObservation` does.

    >>> to_grayscale(np.array([[[202, 152, 101]]], np.uint8)).tolist()
    [[[158]]]
    """
    grayscale: NDArray[np.uint8] = np.sum(image * _LUMA, axis=-1, keepdims=True).astype(np.uint8)
    return grayscale


def can_draw(cartpole: Any, width: int) -> bool:
    """Return whether `CartPolePainter` can draw this environment at this image width.

    The environment must be a `CartPoleEnv` (not a subclass) with the original dimensions, and
    `width` must divide the width of the window, 360 pixels.
    """
    if type(cartpole) is not CartPoleEnv or _VIEW % width:
        return False
    screen = cartpole.screen_width, cartpole.screen_height
    to_scale = cartpole.x_threshold, cartpole.length
    return screen == (_WIDTH, _HEIGHT) and to_scale == (_END, _HALF_POLE)


class CartPolePainter:
    """Renderer for downsampled images of the window around the cart.

    An image is identical to the result of rendering, cropping and downsampling the whole screen.

    Args:
        width: Width of the downsampled image; it must divide the width of the window, 360 pixels.
        height: Height of the downsampled image.
        grayscale: Whether to draw grayscale images [height, width, 1] instead of RGB images
            [height, width, 3].
    """

    def __init__(self, width: int, height: int, grayscale: bool) -> None:
        from pygame import Vector2  # slow to import, and prints a message

        self._upright = [Vector2(corner) for corner in _POLE]
        self._width, self._height, self._grayscale = width, height, grayscale
        self._pixels = _VIEW // width  # per column
        self._canvas = _Canvas()
        self._drawing = Lock()
        self._sprite = lru_cache(_SPRITES)(self._draw_sprite)
        self._background = self._resized(0, width)

    @classmethod
    @cache
    def shared(cls, width: int, height: int, grayscale: bool) -> "CartPolePainter":
        """Return a painter that all environments in this process share, with its sprite cache."""
        return cls(width, height, grayscale)

    def __call__(self, position: float, angle: float) -> NDArray[np.uint8]:
        """Return the uint8 image [height, width, 1 or 3] for a state of CartPole.

        Args:
            position: Position of the cart in CartPole's units, from -2.4 to 2.4 on the screen.
            angle: Angle of the pole in radians; 0 is upright.
        """
        middle = position * _SCALE + _WIDTH / 2
        left = min(max(int(middle) - _VIEW // 2, 0), _WIDTH - _VIEW)
        corners = [corner.rotate_rad(-angle) for corner in self._upright]
        # Round towards 0 in screen coordinates, as CartPole does, before shifting to the window.
        xs = [int(middle), int(middle - _HALF_WIDTH), int(middle + _HALF_WIDTH)]
        xs += [int(x + middle) for x, _ in corners]
        ys = tuple([int(y + _CART_Y + _AXLE) for _, y in corners])
        first, end = self._columns(min(xs) - left, max(xs) - left)
        # A sprite far enough from the window's edges is the same in every column.
        free = first >= _REACH and end <= self._width - _REACH
        moved = first - _REACH if free else 0
        origin = left + moved * self._pixels
        start, sprite = self._sprite(tuple([x - origin for x in xs]), ys)
        start += moved
        image: NDArray[np.uint8] = self._background.copy()
        image[:, start : start + sprite.shape[1]] = sprite
        return image

    def _columns(self, lowest: int, highest: int) -> tuple[int, int]:
        """Return the range [first, end) of image columns that a range of window columns affects.

        Args:
            lowest: First window column, at full resolution.
            highest: Last window column (inclusive).
        """
        first = (lowest - 1) // self._pixels - _REACH  # antialiased lines are a pixel wider
        last = (highest + 1) // self._pixels + _REACH
        return first, last + 1

    def _draw_sprite(self, xs: tuple[int, ...], ys: tuple[int, ...]) -> tuple[int, Any]:
        """Draw a sprite of the cart and the pole.

        Args:
            xs: Columns of the cart and the pole (see `_Canvas.draw`).
            ys: Rows of the pole.

        Returns:
            The first image column of the sprite, and its pixels [height, columns, 1 or 3].
        """
        first, end = self._columns(min(xs), max(xs))
        first = min(max(first, 0), self._width - 1)  # keep one column of a cart beyond the edge
        end = max(min(end, self._width), first + 1)
        with self._drawing:
            self._canvas.draw(xs, ys)
            return first, self._resized(first, end)

    def _resized(self, first: int, end: int) -> NDArray[np.uint8]:
        """Return columns [first, end) of the downsampled window: [height, end - first, 1 or 3]."""
        # Not torchvision's `resize`: it has no argument `box`, with which PIL also reads the
        # pixels next to the box.
        box = first * self._pixels, 0, end * self._pixels, _TOP - _BOTTOM
        size = end - first, self._height
        resized = self._canvas.window.resize(size, Image.Resampling.BICUBIC, box=box)
        colors = np.array(resized)[:, :, :3]
        return to_grayscale(colors) if self._grayscale else colors


class _Canvas:
    """Canvas with the full-resolution window, drawn in the same way as `CartPoleEnv.render`.

    Attributes:
        window: Image of the window, with the top row first; it shares memory with the canvas.
    """

    def __init__(self) -> None:
        import pygame
        from pygame import gfxdraw

        self._gfx: Any = gfxdraw
        # The canvas starts at row 0, below the window, because clipping would change the
        # antialiased lines of a pole that hangs down.
        pixels: Any = np.full((_TOP, _VIEW, 4), 255, np.uint8)
        self._surface = pygame.image.frombuffer(pixels, (_VIEW, _TOP), "RGBX")
        rows, upwards = pixels[_BOTTOM:], -1
        raw = "RGBX", rows.strides[0], upwards
        self.window = Image.frombuffer("RGBX", (_VIEW, len(rows)), rows, "raw", *raw)
        self._draw_track()

    def draw(self, xs: tuple[int, ...], ys: tuple[int, ...]) -> None:
        """Draw the cart and the pole.

        Args:
            xs: Seven columns in pixels: center, left side and right side of the cart, and the four
                corners of the pole.
            ys: Rows of the pole's four corners, in pixels above the bottom of the screen.
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

    def _draw_polygon(self, corners: list[tuple[int, int]], color: tuple[int, int, int]) -> None:
        self._gfx.aapolygon(self._surface, corners, color)
        self._gfx.filled_polygon(self._surface, corners, color)

    def _draw_track(self) -> None:
        self._gfx.hline(self._surface, 0, _VIEW, _CART_Y, (0, 0, 0))
