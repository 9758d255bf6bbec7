"""One number per episode, its duration or its return, and the mean of the newest ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

DURATION = "duration (environment steps)"
RETURN = "return"

_WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


def save_episodes(path: Path, values: Sequence[float], label: str, window: int = 100) -> None:
    """Write the picture, replacing an older one only when it is whole."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    draw_episodes(figure.subplots(), values, label, window)
    unfinished = path.with_name(f".{path.name}.tmp")
    figure.savefig(unfinished, dpi=120, format="png")
    unfinished.replace(path)


def draw_episodes(axes: Axes, values: Sequence[float], label: str, window: int = 100) -> None:
    """Draw each episode's value and, once there are `window`, the mean of the newest so many."""
    heights = np.asarray(values, dtype=float)
    numbers = np.arange(1, len(heights) + 1)
    draw_dots(axes, numbers, heights)
    if len(heights) >= window:
        means = running_mean(heights, window)[window - 1 :]
        axes.plot(numbers[window - 1 :], means, color="#d55e00", label=f"mean of the last {window}")
    axes.set(xlabel="episode", ylabel=label)
    if not (heights < 0).any():
        axes.set_ylim(bottom=0)
    tidy(axes)
    axes.legend(frameon=False, loc="upper left")


def draw_dots(axes: Axes, x: NDArray[Any], heights: NDArray[np.float64]) -> None:
    """Draw a dot for each episode."""
    axes.plot(
        x,
        heights,
        ".",
        color="#0072b2",
        alpha=0.35,
        markersize=4,
        label="episode",
        rasterized=True,  # or there would be as many shapes as episodes in an SVG
    )


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of each value [N] and those before it, `window` at most.

    >>> running_mean(np.array([1.0, 2.0, 6.0]), 2).tolist()
    [1.0, 1.5, 4.0]
    """
    sums = np.concatenate([[0.0], values.cumsum()])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def tidy(axes: Axes) -> None:
    """A light grid and no frame."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


class LiveDurations:
    """A window, or a notebook's output, that shows durations while training.

    Args:
        window: Episodes of the running mean.

    Raises:
        RuntimeError: If there is no display.
    """

    def __init__(self, window: int = 100) -> None:
        import matplotlib.pyplot as plt

        self._window = window
        self._plt = plt
        self._notebook = _notebook_display()
        if self._notebook is None and not has_windows():
            raise RuntimeError("there is no display")
        plt.ion()
        self._figure = plt.figure(figsize=(7, 4), layout="constrained")

    def show(self, durations: Sequence[int]) -> None:
        """Draw anew and let the window take part in events."""
        self._figure.clear()
        draw_episodes(self._figure.subplots(), durations, DURATION, self._window)
        if self._notebook is None:
            self._plt.pause(0.001)
        else:
            self._notebook.clear_output(wait=True)
            self._notebook.display(self._figure)


def has_windows() -> bool:
    """Whether matplotlib can open windows here."""
    import matplotlib.pyplot as plt

    return plt.get_backend().lower() not in _WITHOUT_WINDOWS  # chosen by what there is


def _notebook_display() -> Any:
    import matplotlib

    if "inline" not in matplotlib.get_backend():
        return None
    from IPython import display  # a notebook has it

    return display
