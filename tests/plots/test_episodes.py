import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from dqn_lightning.plots import episodes
from dqn_lightning.plots.episodes import LENGTH, RETURN, LiveLengthPlot, draw_episodes


def lines_of(values: list[int], window: int) -> dict[str, tuple[list[float], list[float]]]:
    axes = Figure().subplots()
    draw_episodes(axes, values, LENGTH, window)
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
    }


def test_each_episode_is_a_dot_and_the_mean_starts_at_the_first_full_window() -> None:
    lines = lines_of([1, 2, 3, 4], window=2)
    assert lines["episode"] == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert lines["mean of the last 2"] == ([2, 3, 4], [1.5, 2.5, 3.5])


def test_running_means_equal_naive_means() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 300).tolist()
    _, means = lines_of(lengths, window=100)["mean of the last 100"]
    naive = [np.mean(lengths[i - 100 : i]) for i in range(100, 301)]
    np.testing.assert_allclose(means, naive)


def test_the_live_window_shows_all_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pauses = []
    monkeypatch.setattr(plt, "pause", pauses.append)
    monkeypatch.setattr(episodes, "can_open_windows", lambda: True)
    window = LiveLengthPlot(window=2)
    for count in (1, 3):
        window.show(list(range(count)))
        (axes,) = window._figure.axes
        assert list(axes.lines[0].get_ydata()) == list(range(count))
    assert len(pauses) == 2
    plt.close("all")


def test_a_live_window_requires_a_display() -> None:
    matplotlib.use("Agg")
    assert not episodes.can_open_windows()
    with pytest.raises(RuntimeError, match="there is no display"):
        LiveLengthPlot()


def test_the_y_axis_contains_negative_returns_and_otherwise_starts_at_0() -> None:
    axes = Figure().subplots()
    draw_episodes(axes, [-200.0, -100.0], RETURN)
    assert axes.get_ylim()[0] < -200
    assert axes.get_ylabel() == "return"
    axes = Figure().subplots()
    draw_episodes(axes, [20, 30], LENGTH)
    assert axes.get_ylim()[0] == 0
