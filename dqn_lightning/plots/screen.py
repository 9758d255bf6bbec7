"""What an environment draws, what is stored of it, and what the network gets, side by side."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray


class Screen(NamedTuple):
    """One moment of an episode.

    Attributes:
        rendered: The environment's own picture [H, W, 3], uint8.
        observation: What the replay stores of it [C, h, w], uint8.
        network_input: What the first layer with weights gets [C', h', w'], float.
    """

    rendered: NDArray[np.uint8]
    observation: NDArray[np.uint8]
    network_input: NDArray[np.float32]


def draw_screen(figure: Figure, screen: Screen) -> None:
    """Draw the three pictures, each with its shape."""
    rendered, observation, network_input = figure.subplots(1, 3)
    _draw(rendered, "rendered picture", screen.rendered, _shape(screen.rendered))
    stored = screen.observation
    _draw(observation, "stored observation", flat(stored), f"{_shape(stored)}, uint8")
    values = screen.network_input
    span = f"{values.min():.2f} to {values.max():.2f}"
    _draw(network_input, "network's input", flat(_visible(values)), f"{_shape(values)}, {span}")


def _draw(axes: Axes, title: str, picture: Any, caption: str) -> None:
    largest = 255 if picture.dtype == np.uint8 else 1
    axes.imshow(picture, cmap="gray", vmin=0, vmax=largest, interpolation="nearest")
    axes.set_title(title)
    axes.set_xlabel(caption)
    axes.set_xticks([])
    axes.set_yticks([])


def _shape(picture: NDArray[Any]) -> str:
    return " x ".join(map(str, picture.shape))


def _visible(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values in [0, 1]; of differences 0 becomes the middle."""
    low, high = float(values.min()), float(values.max())
    visible: NDArray[np.float32] = values / np.float32(max(high, 1.0))
    if low < 0:
        visible = values / np.float32(2 * max(-low, high)) + np.float32(0.5)
    return visible


def flat(channels: NDArray[Any]) -> NDArray[Any]:
    """A picture [C, H, W] to draw; three channels are colours, others one below the other."""
    if len(channels) == 3:
        return np.moveaxis(channels, 0, -1)
    return channels.reshape(-1, channels.shape[-1])
