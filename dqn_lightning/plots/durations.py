"""The duration of every episode, and the mean of the newest ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def save_durations(path: Path, durations: Sequence[int], window: int = 100) -> None:
    """Write the picture, replacing an older one only when it is whole."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    draw_durations(figure.subplots(), durations, window)
    unfinished = path.with_name(f".{path.name}.tmp")
    figure.savefig(unfinished, dpi=120, format="png")
    unfinished.replace(path)


def draw_durations(axes: Axes, durations: Sequence[int], window: int = 100) -> None:
    """Draw durations and, once there are `window` episodes, the mean of the newest so many."""
    values = np.asarray(durations, dtype=float)
    numbers = np.arange(1, len(values) + 1)
    axes.plot(numbers, values, ".", color="#0072b2", alpha=0.35, markersize=4, label="episode")
    if len(values) >= window:
        sums = np.concatenate([[0.0], values.cumsum()])
        means = (sums[window:] - sums[:-window]) / window
        axes.plot(numbers[window - 1 :], means, color="#d55e00", label=f"mean of the last {window}")
    axes.set(xlabel="episode", ylabel="duration (environment steps)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")


class LiveDurations:
    """A window, or a notebook's output, that shows the same while training."""

    def __init__(self, window: int = 100) -> None:
        import matplotlib.pyplot as plt

        self._window = window
        self._plt = plt
        plt.ion()
        self._figure = plt.figure(figsize=(7, 4), layout="constrained")
        self._display = _notebook_display()

    def show(self, durations: Sequence[int]) -> None:
        """Draw anew and let the window take part in events."""
        self._figure.clear()
        draw_durations(self._figure.subplots(), durations, self._window)
        if self._display is None:
            self._plt.pause(0.001)
        else:
            self._display.clear_output(wait=True)
            self._display.display(self._figure)


def _notebook_display() -> Any:
    import matplotlib

    if "inline" not in matplotlib.get_backend():
        return None
    from IPython import display  # a notebook has it

    return display
