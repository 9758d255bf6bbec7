"""What runs have measured over their environment steps, one panel for each quantity."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from dqn_lightning.errors import ConfigError
from dqn_lightning.plots.episodes import DURATION, RETURN, draw_dots, running_mean, tidy
from dqn_lightning.plots.tables import Group, Series

FEWEST_FOR_QUARTILES = 5
"""Runs from which on a band is the interquartile range; of fewer it is from least to greatest."""

_BLUE, _VERMILLION, _ORANGE = "#0072b2", "#d55e00", "#e69f00"  # Okabe and Ito's
_COLOURS = (_BLUE, _VERMILLION, "#009e73", "#cc79a7", _ORANGE, "#56b4e9")
_LINES = ("-", "--", "-.", ":")
_VALUE = "discounted return"
_PANEL, _KEY = (3.7, 2.7), 0.24  # inches
_MOST_POINTS = 500  # of a median


class Band(NamedTuple):
    """A line and what lies around it.

    Attributes:
        env_steps: Where [N].
        middle: The line's height [N].
        low: The band's lower edge [N].
        high: The band's upper edge [N].
    """

    env_steps: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class _Curve(NamedTuple):
    band: Band
    colour: str
    line: str
    label: str | None = None
    band_label: str | None = None


class _Panel(NamedTuple):
    title: str
    unit: str
    curves: list[_Curve]
    dots: Series | None = None
    marked: bool = False
    may_be_log: bool = False


def draw_runs(groups: Sequence[Group], window: int = 100) -> Figure:
    """Draw a panel for each quantity that has been measured.

    A run alone is drawn as it is, each episode a dot. Of several runs in a group the median is
    drawn, as far as all of them have come, and a band around it (`spread`).

    Args:
        groups: Each gets a colour and a kind of line.
        window: Episodes of the running means.

    Raises:
        ConfigError: If there is nothing to draw.
    """
    panels = [panel for panel in _panels(groups, window) if panel.curves]
    if not panels:
        raise ConfigError("plot: nothing in metrics.csv can be drawn (yet)")
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    size = (_PANEL[0] * columns, _PANEL[1] * rows + _KEY * (len(groups) + 1))
    figure = Figure(figsize=size, layout="constrained")
    for i, panel in enumerate(panels):
        first = figure.axes[0] if i > 0 else None
        axes = figure.add_subplot(rows, columns, i + 1, sharex=first)
        _draw_panel(axes, panel)
        if i + columns >= len(panels):  # nothing is below it
            axes.set_xlabel("environment steps")
    if _is_one_run(groups):
        figure.suptitle(groups[0].label, fontweight="bold")
    else:
        figure.legend(handles=_keys(groups), loc="outside upper center", frameon=False)
    return figure


def spread(series: Sequence[Series]) -> Band:
    """The median and a band on a grid that all series cover, which are interpolated linearly.

    The grid is made of all their steps, or of 500 if there are more. The band is the interquartile
    range, or from least to greatest if there are fewer than `FEWEST_FOR_QUARTILES`; one series is
    left as it is.
    """
    if len(series) == 1:
        ((env_steps, values),) = series
        return Band(env_steps, values, values, values)
    grid = _common_grid([one.env_steps for one in series])
    values = np.stack([np.interp(grid, *one) for one in series])
    edges = [0, 50, 100] if len(series) < FEWEST_FOR_QUARTILES else [25, 50, 75]
    low, middle, high = np.percentile(values, edges, axis=0)
    return Band(grid, middle, low, high)


def _common_grid(env_steps: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    first, last = max(steps[0] for steps in env_steps), min(steps[-1] for steps in env_steps)
    grid = np.unique(np.concatenate(env_steps))
    grid = grid[(first <= grid) & (grid <= last)]
    return grid if len(grid) <= _MOST_POINTS else np.linspace(first, last, _MOST_POINTS)


# What is drawn ----------------------------------------------------------------------------------


def _panels(groups: Sequence[Group], window: int) -> Iterator[_Panel]:
    yield _episodes(groups, "train/episode_return", RETURN, window)
    yield _evaluations(groups)
    yield _episodes(groups, "train/episode_length", DURATION, window)
    yield _Panel("updates", "loss", _curves(groups, "train/loss"), may_be_log=True)
    errors = _curves(groups, "train/td_error")
    yield _Panel("updates", "TD error", errors, may_be_log=True)
    yield _Panel("exploration", "epsilon", _curves(groups, "train/epsilon"))
    rates = _curves(groups, "train/learning_rate")
    if any(np.ptp(curve.band.middle) > 0 for curve in rates):
        yield _Panel("learning rate", "learning rate", rates)
    yield _action_values(groups)
    speeds = _curves(groups, "time/env_steps_per_s")
    yield _Panel("speed", "environment steps per second", speeds)


def _episodes(groups: Sequence[Group], column: str, unit: str, window: int) -> _Panel:
    means = [[_mean(series, window) for series in group.measured(column)] for group in groups]
    curves = _in_colours(means)
    if not _is_one_run(groups):
        return _Panel(f"training episodes, mean of the last {window}", unit, curves)
    label = f"mean of the last {window}"
    curves = [curve._replace(colour=_VERMILLION, label=label) for curve in curves]
    return _Panel("training episodes", unit, curves, dots=groups[0].runs[0].series.get(column))


def _mean(series: Series, window: int) -> Series:
    return Series(series.env_steps, running_mean(series.values, window))


def _evaluations(groups: Sequence[Group]) -> _Panel:
    curves = _curves(groups, "eval/return_mean")
    if not _is_one_run(groups):
        return _Panel("evaluations, mean", RETURN, curves, marked=True)
    deviations = groups[0].measured("eval/return_std")
    curves = [_with_deviation(*pair) for pair in zip(curves, deviations, strict=False)]
    return _Panel("evaluations", RETURN, curves, marked=True)


def _with_deviation(curve: _Curve, deviation: Series) -> _Curve:
    env_steps, mean, *_ = curve.band
    band = Band(env_steps, mean, mean - deviation.values, mean + deviation.values)
    return curve._replace(band=band, label="mean", band_label="one standard deviation")


def _action_values(groups: Sequence[Group]) -> _Panel:
    """What one group expects and what it reaches; of several groups, how far these are apart."""
    if len(groups) > 1:
        errors = [_overestimation(group) for group in groups]
        title = "mean action value less return reached"
        return _Panel(title, _VALUE, _in_colours(errors), marked=True)
    lines = {
        "health/q_max": ("greatest action value", _ORANGE, ":"),
        "health/q_mean": ("mean action value", _BLUE, "-"),
        "health/return_mean": ("return reached", _VERMILLION, "--"),
    }
    curves = [
        curve._replace(label=label, colour=colour, line=line)
        for column, (label, colour, line) in lines.items()
        for curve in _curves(groups, column)
    ]
    return _Panel("action values and return reached", _VALUE, curves, marked=True)


def _overestimation(group: Group) -> list[Series]:
    expected, reached = group.measured("health/q_mean"), group.measured("health/return_mean")
    return [_difference(*pair) for pair in zip(expected, reached, strict=False)]


def _difference(left: Series, right: Series) -> Series:
    env_steps, i, j = np.intersect1d(left.env_steps, right.env_steps, return_indices=True)
    return Series(env_steps, left.values[i] - right.values[j])


def _curves(groups: Sequence[Group], column: str) -> list[_Curve]:
    return _in_colours([group.measured(column) for group in groups])


def _in_colours(measured: Sequence[Sequence[Series]]) -> list[_Curve]:
    """A curve for each group that has measured something, in the group's colour."""
    bands = [spread(series) if series else None for series in measured]
    return [
        _Curve(band, *_look(i))
        for i, band in enumerate(bands)
        if band is not None and len(band.env_steps) > 0
    ]


def _look(group: int) -> tuple[str, str]:
    """Colour and kind of line."""
    return _COLOURS[group % len(_COLOURS)], _LINES[group % len(_LINES)]


def _is_one_run(groups: Sequence[Group]) -> bool:
    return len(groups) == 1 and len(groups[0].runs) == 1


# How it is drawn --------------------------------------------------------------------------------


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    if panel.dots is not None:
        draw_dots(axes, *panel.dots)
    for curve in panel.curves:
        _draw_curve(axes, curve, panel.marked)
    axes.set_title(panel.title, fontsize="medium", loc="left")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 10k
    _scale(axes, panel.may_be_log)
    tidy(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")


def _scale(axes: Axes, may_be_log: bool) -> None:
    """Logarithmic over two powers of ten or more; else zero is shown, if it is near."""
    least, greatest = axes.dataLim.intervaly
    if may_be_log and least > 0 and greatest >= 100 * least:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    elif least >= 0:
        axes.set_ylim(bottom=0)
    elif greatest > 0:
        axes.axhline(0, color="0.5", lw=0.8)


def _draw_curve(axes: Axes, curve: _Curve, marked: bool) -> None:
    env_steps, middle, low, high = curve.band
    mark = "." if marked or len(env_steps) == 1 else ""  # a line needs two
    axes.plot(env_steps, middle, curve.line, color=curve.colour, marker=mark, label=curve.label)
    if (high > low).any():
        axes.fill_between(
            env_steps, low, high, color=curve.colour, alpha=0.2, lw=0, label=curve.band_label
        )


def _keys(groups: Sequence[Group]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, ls=line, label=_description(group))
        for group, (colour, line) in zip(groups, map(_look, range(len(groups))), strict=True)
    ]


def _description(group: Group) -> str:
    number = len(group.runs)
    if number == 1:
        return group.label
    band = "min to max" if number < FEWEST_FOR_QUARTILES else "interquartile range"
    return f"{group.label} (median of {number} runs, band: {band})"
