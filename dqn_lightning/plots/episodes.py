"""Plots of lengths or returns of training episodes, with a running mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

LENGTH = "episode length (environment steps)"
"""Axis label for episode lengths."""

RETURN = "return"
"""Axis label for episode returns."""

_BACKENDS_WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


def save_episodes(path: Path, values: Sequence[float], label: str, window: int = 100) -> None:
    """Plot one value per episode, and save the plot atomically as a PNG file.

    Args:
        path: File to write.
        values: One value per episode, such as its length.
        label: Label of the y axis.
        window: Number of most recent episodes over which the running mean is computed.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    draw_episodes(figure.subplots(), values, label, window)
    unfinished = path.with_name(f".{path.name}.tmp")
    figure.savefig(unfinished, dpi=120, format="png")
    unfinished.replace(path)


def draw_episodes(axes: Axes, values: Sequence[float], label: str, window: int = 100) -> None:
    """Plot one value per episode, and the running mean as soon as the window is full.

    Args:
        axes: Axes to draw in.
        values: One value per episode, such as its length.
        label: Label of the y axis.
        window: Number of most recent episodes over which the running mean is computed.
    """
    y = np.asarray(values, dtype=float)
    numbers = np.arange(1, len(y) + 1)
    draw_dots(axes, numbers, y)
    if len(y) >= window:
        means = running_mean(y, window)[window - 1 :]
        axes.plot(numbers[window - 1 :], means, color="#d55e00", label=f"mean of the last {window}")
    axes.set(xlabel="episode", ylabel=label)
    if not (y < 0).any():
        axes.set_ylim(bottom=0)
    style_axes(axes)
    axes.legend(frameon=False, loc="upper left")


def draw_dots(axes: Axes, x: NDArray[Any], y: NDArray[np.float64]) -> None:
    """Draw one dot per episode.

    Args:
        axes: Axes to draw in.
        x: Horizontal coordinates [P].
        y: Vertical coordinates [P].
    """
    axes.plot(
        x,
        y,
        ".",
        color="#0072b2",
        alpha=0.35,
        markersize=4,
        label="episode",
        rasterized=True,  # an SVG would otherwise contain one shape per episode
    )


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return running means [P], each over a value and up to `window - 1` values before it.

    >>> running_mean(np.array([1.0, 2.0, 6.0]), 2).tolist()
    [1.0, 1.5, 4.0]
    """
    sums = np.concatenate([[0.0], values.cumsum()])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def style_axes(axes: Axes) -> None:
    """Add a light grid to a plot, and hide the top and right spines."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


class LiveLengthPlot:
    """Plot of episode lengths that is updated during training, in a window or a notebook cell.

    Args:
        window: Number of most recent episodes over which the running mean is computed.

    Raises:
        RuntimeError: If no display is available.
    """

    def __init__(self, window: int = 100) -> None:
        import matplotlib.pyplot as plt

        self._window = window
        self._plt = plt
        self._notebook = _notebook_display()
        if self._notebook is None and not can_open_windows():
            raise RuntimeError("there is no display")
        plt.ion()
        self._figure = plt.figure(figsize=(7, 4), layout="constrained")

    def show(self, lengths: Sequence[int]) -> None:
        """Redraw the plot with the lengths of all episodes, and process window events."""
        self._figure.clear()
        draw_episodes(self._figure.subplots(), lengths, LENGTH, self._window)
        if self._notebook is None:
            self._plt.pause(0.001)
        else:
            self._notebook.clear_output(wait=True)
            self._notebook.display(self._figure)


def can_open_windows() -> bool:
    """Return whether the current matplotlib backend can open windows."""
    import matplotlib.pyplot as plt

    backend = plt.get_backend()  # selected automatically, depending on the display
    return backend.lower() not in _BACKENDS_WITHOUT_WINDOWS


def _notebook_display() -> Any:
    """Return IPython's `display` module if this is a notebook with inline plots, else None."""
    import matplotlib

    if "inline" not in matplotlib.get_backend():
        return None
    from IPython import display  # always installed where a notebook runs

    return display
