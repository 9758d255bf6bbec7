"""Plots of the metrics of one or more runs over environment steps, with one panel per metric."""

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
from dqn_lightning.plots.episodes import LENGTH, RETURN, draw_dots, running_mean, style_axes
from dqn_lightning.plots.tables import Group, Series

MIN_RUNS_FOR_QUARTILES = 5
"""Minimum number of runs for which the band shows the interquartile range.

For fewer runs, the band shows the range from minimum to maximum.
"""

_BLUE, _VERMILLION, _ORANGE = "#0072b2", "#d55e00", "#e69f00"  # palette of Okabe and Ito (2008)
_COLORS = (_BLUE, _VERMILLION, "#009e73", "#cc79a7", _ORANGE, "#56b4e9")
_LINE_STYLES = ("-", "--", "-.", ":")
_VALUE = "discounted return"
_PANEL_INCHES, _LEGEND_LINE_INCHES = (3.7, 2.7), 0.24
_MAX_POINTS = 500  # maximum number of points of a median curve


class Band(NamedTuple):
    """Curve with a band around it.

    Attributes:
        env_steps: Environment steps [P] of the P points.
        middle: Values of the curve [P].
        low: Lower edge of the band [P].
        high: Upper edge of the band [P].
    """

    env_steps: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class _Curve(NamedTuple):
    band: Band
    color: str
    line: str
    label: str | None = None
    band_label: str | None = None


class _Panel(NamedTuple):
    title: str
    unit: str
    curves: list[_Curve]
    dots: Series | None = None
    with_markers: bool = False
    log_allowed: bool = False


def draw_runs(groups: Sequence[Group], window: int = 100) -> Figure:
    """Draw a figure with one panel per quantity, such as the return or the loss.

    If there is only one run, its episodes are also drawn as dots. For a group of several runs, the
    median is drawn with a band (see `median_band`), over the environment steps that all runs cover.

    Args:
        groups: Groups of runs. Each group is drawn in its own color and line style.
        window: Number of most recent episodes over which running means are computed.

    Raises:
        ConfigError: If no metric can be drawn.
    """
    panels = [panel for panel in _panels(groups, window) if panel.curves]
    if not panels:
        raise ConfigError("plot: metrics.csv contains nothing to draw yet")
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    legend_height = _LEGEND_LINE_INCHES * (len(groups) + 1)
    size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows + legend_height)
    figure = Figure(figsize=size, layout="constrained")
    for i, panel in enumerate(panels):
        first = figure.axes[0] if i > 0 else None
        axes = figure.add_subplot(rows, columns, i + 1, sharex=first)
        _draw_panel(axes, panel)
        if i + columns >= len(panels):  # no panel below
            axes.set_xlabel("environment steps")
    if _is_one_run(groups):
        figure.suptitle(groups[0].label, fontweight="bold")
    else:
        figure.legend(handles=_legend_handles(groups), loc="outside upper center", frameon=False)
    return figure


def median_band(series: Sequence[Series]) -> Band:
    """Return the median of several series, and a band that shows how much the series vary.

    The series are interpolated linearly to a common grid over the environment steps that all series
    cover. The grid contains the steps of all series; if there are more than 500, it consists of 500
    evenly spaced steps instead. The band is the interquartile range, or the range from minimum to
    maximum if there are fewer than `MIN_RUNS_FOR_QUARTILES` series. A single series is returned
    unchanged, with a band of zero width.
    """
    if len(series) == 1:
        ((env_steps, values),) = series
        return Band(env_steps, values, values, values)
    grid = _common_grid([each.env_steps for each in series])
    values = np.stack([np.interp(grid, *each) for each in series])
    edges = [0, 50, 100] if len(series) < MIN_RUNS_FOR_QUARTILES else [25, 50, 75]
    low, middle, high = np.percentile(values, edges, axis=0)
    return Band(grid, middle, low, high)


def _common_grid(env_steps: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    first, last = max(steps[0] for steps in env_steps), min(steps[-1] for steps in env_steps)
    grid = np.unique(np.concatenate(env_steps))
    grid = grid[(first <= grid) & (grid <= last)]
    return grid if len(grid) <= _MAX_POINTS else np.linspace(first, last, _MAX_POINTS)


# Contents of the panels --------------------------------------------------------------------------


def _panels(groups: Sequence[Group], window: int) -> Iterator[_Panel]:
    yield _episode_panel(groups, "train/episode_return", RETURN, window)
    yield _evaluation_panel(groups)
    yield _episode_panel(groups, "train/episode_length", LENGTH, window)
    yield _Panel("updates", "loss", _curves(groups, "train/loss"), log_allowed=True)
    errors = _curves(groups, "train/td_error")
    yield _Panel("updates", "TD error", errors, log_allowed=True)
    yield _Panel("exploration", "epsilon", _curves(groups, "train/epsilon"))
    rates = _curves(groups, "train/learning_rate")
    if any(np.ptp(curve.band.middle) > 0 for curve in rates):
        yield _Panel("learning rate", "learning rate", rates)
    yield _action_value_panel(groups)
    speeds = _curves(groups, "time/env_steps_per_s")
    yield _Panel("speed", "environment steps per second", speeds)


def _episode_panel(groups: Sequence[Group], column: str, unit: str, window: int) -> _Panel:
    means = [[_smooth(series, window) for series in group.series(column)] for group in groups]
    curves = _with_colors(means)
    if not _is_one_run(groups):
        return _Panel(f"training episodes, mean of the last {window}", unit, curves)
    label = f"mean of the last {window}"
    curves = [curve._replace(color=_VERMILLION, label=label) for curve in curves]
    return _Panel("training episodes", unit, curves, dots=groups[0].runs[0].metrics.get(column))


def _smooth(series: Series, window: int) -> Series:
    return Series(series.env_steps, running_mean(series.values, window))


def _evaluation_panel(groups: Sequence[Group]) -> _Panel:
    curves = _curves(groups, "eval/return_mean")
    if not _is_one_run(groups):
        return _Panel("evaluations, mean", RETURN, curves, with_markers=True)
    deviations = groups[0].series("eval/return_std")
    curves = [_add_deviation_band(*pair) for pair in zip(curves, deviations, strict=False)]
    return _Panel("evaluations", RETURN, curves, with_markers=True)


def _add_deviation_band(curve: _Curve, deviation: Series) -> _Curve:
    env_steps, mean, *_ = curve.band
    band = Band(env_steps, mean, mean - deviation.values, mean + deviation.values)
    return curve._replace(band=band, label="mean", band_label="one standard deviation")


def _action_value_panel(groups: Sequence[Group]) -> _Panel:
    """Return a panel that compares predicted action values with actual returns.

    For several groups, only the difference between action value and return is shown.
    """
    if len(groups) > 1:
        errors = [_overestimation(group) for group in groups]
        title = "mean action value - actual return"
        return _Panel(title, _VALUE, _with_colors(errors), with_markers=True)
    lines = {
        "diagnostics/q_max": ("largest action value", _ORANGE, ":"),
        "diagnostics/q_mean": ("mean action value", _BLUE, "-"),
        "diagnostics/return_mean": ("actual return", _VERMILLION, "--"),
    }
    curves = [
        curve._replace(label=label, color=color, line=line)
        for column, (label, color, line) in lines.items()
        for curve in _curves(groups, column)
    ]
    return _Panel("action values and actual return", _VALUE, curves, with_markers=True)


def _overestimation(group: Group) -> list[Series]:
    q_means, return_means = (
        group.series("diagnostics/q_mean"),
        group.series("diagnostics/return_mean"),
    )
    return [_difference(*pair) for pair in zip(q_means, return_means, strict=False)]


def _difference(left: Series, right: Series) -> Series:
    env_steps, i, j = np.intersect1d(left.env_steps, right.env_steps, return_indices=True)
    return Series(env_steps, left.values[i] - right.values[j])


def _curves(groups: Sequence[Group], column: str) -> list[_Curve]:
    return _with_colors([group.series(column) for group in groups])


def _with_colors(series_of_groups: Sequence[Sequence[Series]]) -> list[_Curve]:
    """Return one curve for each group that has data, in the color and line style of the group."""
    bands = [median_band(series) if series else None for series in series_of_groups]
    return [
        _Curve(band, *_line_style(i))
        for i, band in enumerate(bands)
        if band is not None and len(band.env_steps) > 0
    ]


def _line_style(group: int) -> tuple[str, str]:
    """Return the color and the line style for the group with the given index."""
    return _COLORS[group % len(_COLORS)], _LINE_STYLES[group % len(_LINE_STYLES)]


def _is_one_run(groups: Sequence[Group]) -> bool:
    return len(groups) == 1 and len(groups[0].runs) == 1


# Drawing -----------------------------------------------------------------------------------------


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    if panel.dots is not None:
        draw_dots(axes, *panel.dots)
    for curve in panel.curves:
        _draw_curve(axes, curve, panel.with_markers)
    axes.set_title(panel.title, fontsize="medium", loc="left")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 10k
    _scale_y_axis(axes, panel.log_allowed)
    style_axes(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")


def _scale_y_axis(axes: Axes, log_allowed: bool) -> None:
    """Choose a logarithmic or linear scale for the y axis.

    The scale is logarithmic if this is allowed, all values are positive, and they span at least two
    orders of magnitude. A linear scale includes zero unless all values are negative.
    """
    low, high = axes.dataLim.intervaly
    if log_allowed and low > 0 and high >= 100 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    elif low >= 0:
        axes.set_ylim(bottom=0)
    elif high > 0:
        axes.axhline(0, color="0.5", lw=0.8)


def _draw_curve(axes: Axes, curve: _Curve, with_markers: bool) -> None:
    env_steps, middle, low, high = curve.band
    marker = "." if with_markers or len(env_steps) == 1 else ""  # a single point would be invisible
    axes.plot(env_steps, middle, curve.line, color=curve.color, marker=marker, label=curve.label)
    if (high > low).any():
        axes.fill_between(
            env_steps, low, high, color=curve.color, alpha=0.2, lw=0, label=curve.band_label
        )


def _legend_handles(groups: Sequence[Group]) -> list[Line2D]:
    return [
        Line2D([], [], color=color, ls=line, label=_description(group))
        for group, (color, line) in zip(groups, map(_line_style, range(len(groups))), strict=True)
    ]


def _description(group: Group) -> str:
    number = len(group.runs)
    if number == 1:
        return group.label
    band = "min to max" if number < MIN_RUNS_FOR_QUARTILES else "interquartile range"
    return f"{group.label} (median of {number} runs, band: {band})"
