from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dqn_lightning import ConfigError
from dqn_lightning.plots.runs import draw_runs, median_band
from dqn_lightning.plots.tables import Group, Run, Series

Points = Mapping[float, float]


def series(points: Points) -> Series:
    return Series(np.array([*points], dtype=float), np.array([*points.values()], dtype=float))


def make_group(label: str, *tables: Mapping[str, Points]) -> Group:
    runs = [
        Run(f"{label}-{i}", label, {name: series(points) for name, points in table.items()})
        for i, table in enumerate(tables)
    ]
    return Group(label, runs)


def panel(figure: Figure, unit: str, title: str = "") -> Axes:
    """Return the only panel with this unit and a title that starts with `title`."""
    (axes,) = [
        axes
        for axes in figure.axes
        if axes.get_ylabel() == unit and axes.get_title(loc="left").startswith(title)
    ]
    return axes


def lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def band(axes: Axes, i: int = 0) -> set[tuple[float, float]]:
    """Return the corners of a band."""
    return {(x, y) for x, y in axes.collections[i].get_paths()[0].vertices.tolist()}


EPISODES = {"train/episode_return": {10: 1, 30: 3, 60: 8}, "train/episode_length": {10: 10, 30: 20}}


# One run ----------------------------------------------------------------------------------------


def test_each_episode_is_a_dot_with_a_running_mean() -> None:
    figure = draw_runs([make_group("run", EPISODES)], window=2)
    assert lines(panel(figure, "return")) == [
        ([10, 30, 60], [1, 3, 8]),
        ([10, 30, 60], [1, 2, 5.5]),
    ]
    assert lines(panel(figure, "episode length (environment steps)")) == [
        ([10, 30], [10, 20]),
        ([10, 30], [10, 15]),
    ]
    dots, mean = panel(figure, "return").lines
    assert (dots.get_linestyle(), dots.get_label()) == ("None", "episode")
    assert mean.get_label() == "mean of the last 2"


def test_evaluations_have_a_band_of_one_standard_deviation() -> None:
    measured = {"eval/return_mean": {100: 20, 200: 50}, "eval/return_std": {100: 5, 200: 10}}
    axes = panel(draw_runs([make_group("run", measured)]), "return", "evaluations")
    assert lines(axes) == [([100, 200], [20, 50])]
    assert band(axes) == {(100, 15), (100, 25), (200, 40), (200, 60)}


def test_loss_td_error_epsilon_and_speed_are_drawn_unchanged() -> None:
    units = {
        "train/loss": "loss",
        "train/td_error": "TD error",
        "train/epsilon": "epsilon",
        "time/env_steps_per_s": "environment steps per second",
    }
    points = {10: 1.0, 20: 0.5}
    figure = draw_runs([make_group("run", dict.fromkeys(units, points))])
    for unit in units.values():
        assert lines(panel(figure, unit)) == [([10, 20], [1.0, 0.5])]


def test_panels_without_data_are_left_out() -> None:
    units = [axes.get_ylabel() for axes in draw_runs([make_group("run", EPISODES)]).axes]
    assert units == ["return", "episode length (environment steps)"]


def test_runs_without_known_metrics_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"metrics\.csv .*nothing to draw"):
        draw_runs([make_group("run", {"mine/value": {1: 2}})])


def test_the_learning_rate_is_drawn_if_it_changes() -> None:
    constant = {**EPISODES, "train/learning_rate": {10: 0.1, 20: 0.1}}
    falling = {**EPISODES, "train/learning_rate": {10: 0.1, 20: 0.05}}
    units = [axes.get_ylabel() for axes in draw_runs([make_group("run", constant)]).axes]
    assert "learning rate" not in units
    axes = panel(draw_runs([make_group("run", falling)]), "learning rate")
    assert lines(axes) == [([10, 20], [0.1, 0.05])]


@pytest.mark.parametrize(
    ("points", "scale"),
    [({1: 0.01, 2: 1}, "log"), ({1: 0.02, 2: 1}, "linear"), ({1: 0, 2: 1}, "linear")],
)
def test_a_loss_over_two_powers_of_ten_is_drawn_logarithmically(points: Points, scale: str) -> None:
    figure = draw_runs([make_group("run", {"train/loss": points, "train/epsilon": points})])
    assert panel(figure, "loss").get_yscale() == scale
    assert panel(figure, "epsilon").get_yscale() == "linear"


def test_zero_is_shown_unless_all_values_are_negative() -> None:
    def axes_of(points: Points) -> Axes:
        return panel(draw_runs([make_group("run", {"train/td_error": points})]), "TD error")

    assert axes_of({1: 5, 2: 6}).get_ylim()[0] == 0
    assert axes_of({1: -5, 2: 6}).lines[-1].get_ydata() == [0, 0]
    assert axes_of({1: -6, 2: -5}).get_ylim()[1] < 0  # such as returns of -100, far from 0


def test_action_values_are_drawn_with_the_actual_return() -> None:
    measured = {
        "diagnostics/q_mean": {10: 4, 20: 6},
        "diagnostics/q_max": {10: 5, 20: 9},
        "diagnostics/return_mean": {10: 3, 20: 7},
    }
    axes = panel(draw_runs([make_group("run", measured)]), "discounted return")
    drawn = {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {
        "largest action value": [5, 9],
        "mean action value": [4, 6],
        "actual return": [3, 7],
    }


def test_steps_are_abbreviated_in_thousands() -> None:
    figure = draw_runs([make_group("run", {"train/loss": {0: 1, 20_000: 2}})])
    figure.draw_without_rendering()
    assert "10k" in [label.get_text() for label in figure.axes[0].get_xticklabels()]


# Several runs -----------------------------------------------------------------------------------


def test_fewer_than_five_runs_are_drawn_as_median_with_minimum_and_maximum() -> None:
    tables: Sequence[Mapping[str, Points]] = [
        {"train/loss": {0: 1, 10: 3}},
        {"train/loss": {0: 2, 10: 9}},
        {"train/loss": {0: 6, 10: 4}},
    ]
    figure = draw_runs([make_group("cartpole", *tables)])
    axes = panel(figure, "loss")
    assert lines(axes) == [([0, 10], [2, 4])]
    assert band(axes) == {(0, 1), (0, 6), (10, 3), (10, 9)}
    (legend,) = figure.legends
    (text,) = [text.get_text() for text in legend.get_texts()]
    assert text == "cartpole (median of 3 runs, band: min to max)"


def test_five_runs_are_drawn_as_median_with_quartiles() -> None:
    tables = [{"train/loss": {0: value, 10: 2 * value}} for value in (1, 2, 4, 8, 100)]
    figure = draw_runs([make_group("cartpole", *tables)])
    axes = panel(figure, "loss")
    assert lines(axes) == [([0, 10], [4, 8])]
    assert band(axes) == {(0, 2), (0, 8), (10, 4), (10, 16)}
    assert "5 runs, band: interquartile range" in figure.legends[0].get_texts()[0].get_text()


def test_runs_are_interpolated_over_the_steps_that_all_of_them_cover() -> None:
    middle = median_band([series({0: 0, 10: 10, 20: 0}), series({5: 1, 15: 3})])
    assert middle.env_steps.tolist() == [5, 10, 15]
    assert middle.low.tolist() == [1, 2, 3]
    assert middle.high.tolist() == [5, 10, 5]
    assert middle.middle.tolist() == [3, 6, 4]


def test_a_median_has_at_most_500_points() -> None:
    long = [series({float(i): 2.0 * i for i in range(k, 2000)}) for k in (0, 1)]
    middle = median_band(long)
    assert (middle.env_steps[[0, -1]].tolist(), len(middle.env_steps)) == ([1, 1999], 500)
    np.testing.assert_allclose(middle.middle, 2 * middle.env_steps)


def test_running_means_are_computed_before_the_median() -> None:
    tables = [{"train/episode_return": {1: a, 2: b}} for a, b in ((0, 2), (4, 8), (6, 6))]
    axes = panel(draw_runs([make_group("run", *tables)], window=2), "return")
    assert lines(axes) == [([1, 2], [4, 6])]  # medians of 0, 4, 6 and of 1, 6, 6; no dots


def test_groups_differ_in_color_and_line_style() -> None:
    figure = draw_runs([make_group(name, {"train/loss": {0: 1, 10: 2}}) for name in "abcdefghijkl"])
    styles = {(line.get_color(), line.get_linestyle()) for line in panel(figure, "loss").lines}
    assert len(styles) == 12
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == list("abcdefghijkl")


def test_a_group_keeps_its_color_in_panels_without_the_other_group() -> None:
    figure = draw_runs(
        [make_group("a", EPISODES), make_group("b", {**EPISODES, "train/loss": {0: 1, 9: 2}})]
    )
    (line,) = panel(figure, "loss").lines
    assert line.get_color() == panel(figure, "return").lines[1].get_color()


def test_several_groups_are_drawn_with_the_overestimation_of_action_values() -> None:
    def metrics_with(value: float) -> Mapping[str, Points]:
        return {"diagnostics/q_mean": {10: value, 20: 8}, "diagnostics/return_mean": {10: 3, 20: 7}}

    figure = draw_runs(
        [
            make_group("a", metrics_with(4)),
            make_group("b", metrics_with(2)),
            make_group("c", EPISODES),
        ]
    )
    drawn = lines(panel(figure, "discounted return"))
    assert drawn[:2] == [([10, 20], [1, 1]), ([10, 20], [-1, 1])]


def test_runs_that_share_no_environment_steps_are_rejected() -> None:
    apart = make_group("run", {"train/loss": {0: 1, 10: 2}}, {"train/loss": {20: 1, 30: 2}})
    with pytest.raises(ConfigError, match=r"metrics\.csv .*nothing to draw"):
        draw_runs([apart])
