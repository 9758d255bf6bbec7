"""Plot of the rendered image, the stored observation and the network's input, side by side."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray


class Screen(NamedTuple):
    """Images of one environment step at different stages of processing.

    Attributes:
        rendered: Image [H, W, 3] rendered by the environment, uint8.
        observation: Newest observation [C, h, w] stored in the replay, uint8.
        network_input: Input [C', h', w'] of the first layer that has parameters, float.
    """

    rendered: NDArray[np.uint8]
    observation: NDArray[np.uint8]
    network_input: NDArray[np.float32]


def draw_screen(figure: Figure, screen: Screen) -> None:
    """Draw the three images of a `Screen` side by side, each labeled with its shape."""
    rendered, observation, network_input = figure.subplots(1, 3)
    _draw_image(rendered, "rendered image", screen.rendered, _format_shape(screen.rendered))
    stored = screen.observation
    caption = f"{_format_shape(stored)}, uint8"
    _draw_image(observation, "stored observation", to_drawable(stored), caption)
    values = screen.network_input
    caption = f"{_format_shape(values)}, {values.min():.2f} to {values.max():.2f}"
    _draw_image(network_input, "network input", to_drawable(_rescale(values)), caption)


def _draw_image(axes: Axes, title: str, image: Any, caption: str) -> None:
    white = 255 if image.dtype == np.uint8 else 1
    axes.imshow(image, cmap="gray", vmin=0, vmax=white, interpolation="nearest")
    axes.set_title(title)
    axes.set_xlabel(caption)
    axes.set_xticks([])
    axes.set_yticks([])


def _format_shape(image: NDArray[Any]) -> str:
    return " x ".join(map(str, image.shape))


def _rescale(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rescale values to [0, 1] for display; if some values are negative, 0 is mapped to 0.5."""
    low, high = float(values.min()), float(values.max())
    rescaled: NDArray[np.float32] = values / np.float32(max(high, 1.0))
    if low < 0:
        rescaled = values / np.float32(2 * max(-low, high)) + np.float32(0.5)
    return rescaled


def to_drawable(channels: NDArray[Any]) -> NDArray[Any]:
    """Convert an image [C, H, W] to a format that can be drawn.

    If C is 3, the result is a color image [H, W, 3]. Otherwise it is a grayscale image [C * H, W],
    in which the channels are stacked vertically.
    """
    if len(channels) == 3:
        return np.moveaxis(channels, 0, -1)
    return channels.reshape(-1, channels.shape[-1])
