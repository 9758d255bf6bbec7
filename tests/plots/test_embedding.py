import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dqn_lightning.errors import ConfigError
from dqn_lightning.plots import embedding
from dqn_lightning.plots.embedding import (
    Colouring,
    Points,
    check_embedding,
    draw_points,
    embed,
    write_page,
)
from tests.pages import picture_of, states_of


def of_rank(rank: int, num_points: int = 50, width: int = 7) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(num_points, rank, generator=rng) @ torch.randn(rank, width, generator=rng)


def some_points(pictures: bool = False) -> Points:
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 256, (6, 1, 4, 9), np.uint8) if pictures else rng.random((6, 4))
    q_values = np.array([[1, 2, 3], [3, 2, 1], [0, 5, 0], [1, 0, 0], [0, 0, 7], [2, 1, 0]])
    return Points(
        rng.random((6, 3)),
        ["first", "second", "third"],
        obs,
        q_values.astype(np.float32),
        np.array([0, 0, 0, 1, 1, 1]),
        np.array([0, 4, 9, 0, 1, 2]),
    )


def _distances(points: Tensor) -> Tensor:
    return (points[:, None] - points).norm(dim=2)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_three_components_keep_all_distances_of_three_dimensions(rank: int) -> None:
    features = of_rank(rank)
    places, axes = embed(features, "pca")
    torch.testing.assert_close(
        _distances(torch.from_numpy(places)),
        _distances(features.double()),
        atol=1e-5,
        rtol=1e-5,
    )
    shares = [int(re.findall(r"\((\d+)%\)", axis)[0]) for axis in axes]
    assert 99 <= sum(shares) <= 101
    assert shares == sorted(shares, reverse=True)
    assert shares[rank:] == [0] * (3 - rank)


def test_components_do_not_depend_on_the_order_of_points() -> None:
    features, order = of_rank(5), torch.randperm(50, generator=torch.Generator().manual_seed(1))
    places, shuffled = (embed(f, "pca")[0] for f in (features, features[order]))
    np.testing.assert_allclose(shuffled, places[order.numpy()], atol=1e-5)


def test_two_features_leave_a_dimension_empty() -> None:
    places, axes = embed(of_rank(2, width=2), "pca")
    assert places[:, 2].tolist() == [0] * 50
    assert axes[2] == "-"


def test_features_that_are_all_the_same_are_one_place() -> None:
    places, _ = embed(torch.ones(5, 4), "pca")
    assert places.tolist() == [[0, 0, 0]] * 5


def test_t_sne_keeps_neighbours() -> None:
    manifold = pytest.importorskip("sklearn.manifold")
    features = of_rank(3, num_points=200)
    places, axes = embed(features, "tsne")
    # 1: every point's nearest were its neighbours before; places by chance have 0.5.
    assert manifold.trustworthiness(features.numpy(), places) > 0.9
    assert axes == ["t-SNE 1", "t-SNE 2", "t-SNE 3"]
    assert np.array_equal(embed(features, "tsne")[0], places)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("value", [3, 3, 5, 1, 7, 2]),
        ("action", [2, 0, 1, 0, 2, 0]),
        ("episode", [0, 0, 0, 1, 1, 1]),
        ("step", [0, 4, 9, 0, 1, 2]),
    ],
)
def test_points_are_drawn_as_their_actions_and_coloured(
    name: Colouring, numbers: list[int]
) -> None:
    points = some_points()
    assert points.colouring(name).tolist() == numbers
    figure = Figure()
    draw_points(figure, points, name)
    axes, bar = figure.axes
    assert bar.get_ylabel() == name
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first", "second")
    drawn = np.concatenate([crowd.get_array() for crowd in axes.collections])
    by_action = np.argsort(points.action, kind="stable")
    assert drawn.tolist() == [numbers[i] for i in by_action]
    assert [len(crowd.get_array()) for crowd in axes.collections] == [3, 1, 2]


def test_a_page_shows_what_was_seen_and_asks_nobody() -> None:
    pytest.importorskip("plotly")
    points = some_points()
    write_page(Path("page.html"), points, "step", "CartPole-v1")
    page = Path("page.html").read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=", page)
    states = states_of(page)
    assert [state["text"] for state in states] == [
        f"episode {episode}, step {step}, action {action}"
        for episode, step, action in zip(points.episode, points.step, points.action, strict=True)
    ]
    assert [state["values"] for state in states] == points.q_values.tolist()
    assert [state["numbers"] for state in states] == [
        [f"{x:.4g}" for x in obs] for obs in points.obs.tolist()
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_of_pictures_holds_them(channels: int) -> None:
    pytest.importorskip("plotly")
    obs = np.zeros((6, channels, 4, 9), np.uint8)
    obs[:, 0] = 40 * np.arange(1, 7, dtype=np.uint8)[:, None, None]
    write_page(Path("page.html"), some_points()._replace(obs=obs), "value", "pixels")
    states = states_of(Path("page.html").read_text())
    assert [state["numbers"] for state in states] == [None] * 6
    for picture, state in zip(obs, states, strict=True):
        expected = picture[0] if channels == 1 else np.moveaxis(picture, 0, -1)
        assert np.array_equal(picture_of(state["picture"]), expected)


@pytest.mark.parametrize(
    ("file", "words"),
    [("points.svg", r"must end in \.html or \.png"), ("no/points.png", "there is no folder no")],
)
def test_files_that_cannot_be_are_refused(file: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_embedding("pca", [Path(file)])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "find_spec", lambda _: None)
    check_embedding("pca", [Path("points.png")])
    with pytest.raises(ConfigError, match=r"plotly \(pip install -e '\.\[plots\]'\)"):
        check_embedding("pca", [Path("points.html")])
    with pytest.raises(ConfigError, match="tsne needs scikit-learn"):
        check_embedding("tsne", [Path("points.png")])
