import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dqn_lightning.errors import ConfigError
from dqn_lightning.plots import embedding
from dqn_lightning.plots.embedding import (
    Colouring,
    Method,
    Points,
    check_embedding,
    draw_points,
    embed,
    write_page,
)
from tests.pages import picture_of, states_of

COLOURINGS: list[Colouring] = ["value", "episode", "step", "action"]


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
    assert [state["values"] for state in states][:2] == ["1, 2, 3", "3, 2, 1"]
    assert [state["numbers"] for state in states] == [
        ", ".join(f"{x:.4g}" for x in obs) for obs in points.obs.tolist()
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_of_pictures_holds_them(channels: int) -> None:
    pytest.importorskip("plotly")
    obs = np.zeros((6, channels, 4, 9), np.uint8)
    obs[:, 0] = 40 * np.arange(1, 7, dtype=np.uint8)[:, None, None]
    write_page(Path("page.html"), some_points()._replace(obs=obs), "value", "pixels")
    states = states_of(Path("page.html").read_text())
    for picture, state in zip(obs, states, strict=True):
        expected = picture[0] if channels == 1 else np.moveaxis(picture, 0, -1)
        assert np.array_equal(picture_of(state["picture"]), expected)


def test_a_page_of_other_pictures_has_them_in_shades_of_grey() -> None:
    pytest.importorskip("plotly")
    obs = np.linspace(-1, 1, 6, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 9))
    write_page(Path("page.html"), some_points()._replace(obs=obs), "value", "pixels")
    pictures = [picture_of(s["picture"]) for s in states_of(Path("page.html").read_text())]
    assert [picture.shape for picture in pictures] == [(4, 9)] * 6
    assert [picture[0, 0] for picture in pictures] == [0, 51, 102, 153, 204, 255]


@pytest.mark.parametrize(
    ("obs", "numbers"),
    [
        (np.full((6, 1), 12_345), "12345"),
        (np.full((6, 2), 0.123456), "0.1235, 0.1235"),
        (np.zeros((6, 2_000)), ", ".join(["0"] * 64) + ", … (2,000)"),
    ],
)
def test_a_page_has_numbers_to_read(obs: Any, numbers: str) -> None:
    pytest.importorskip("plotly")
    write_page(Path("page.html"), some_points()._replace(obs=obs), "value", "numbers")
    assert states_of(Path("page.html").read_text())[0]["numbers"] == numbers


def test_a_page_changes_its_colours() -> None:
    pytest.importorskip("plotly")
    write_page(Path("page.html"), some_points(), "step", "colours")
    page = Path("page.html").read_text()
    names = re.findall(r'"label":"(\w+)"', page)
    assert names == ["value", "episode", "step", "action"]
    bars = re.findall(r'"marker.colorbar.title.text":\["(\w+)"\]', page)
    assert bars == names
    numbers = [some_points().colouring(name).tolist() for name in COLOURINGS]
    colours = [json.loads(c) for c in re.findall(r'"textfont.color":\[(\[.*?\])\]', page)]
    for of_points, of_texts in zip(numbers, colours, strict=True):
        by_number = dict(zip(of_points, of_texts, strict=True))
        assert [by_number[number] for number in of_points] == of_texts  # equal ones look equal
        assert by_number[min(of_points)] == "#8000ff"  # violet
        assert by_number[max(of_points)] == "#ff0000"  # red
    shown = re.search(r'"textfont":\{"color":(\[.*?\])', page)
    assert shown is not None
    assert json.loads(shown[1]) == colours[names.index("step")]
    labels = re.search(r'"text":(\[.*?\]),"textposition"', page)
    assert labels is not None
    assert json.loads(labels[1]) == ["2", "0", "1", "0", "2", "0"]


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_features_that_are_no_numbers_are_said(method: Method) -> None:
    with pytest.raises(ConfigError, match="features are not finite"):
        embed(torch.full((5, 4), torch.nan), method)


def test_t_sne_of_features_that_are_all_the_same_is_refused() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ConfigError, match="--method: tsne finds nothing"):
        embed(torch.ones(50, 4), "tsne")


def test_t_sne_takes_two_features() -> None:
    pytest.importorskip("sklearn")
    places, _ = embed(of_rank(2, width=2), "tsne")
    assert places.shape == (50, 3)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("points.svg", r"points\.svg must end in \.html or \.png"),
        ("no/points.png", "there is no folder no"),
    ],
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
