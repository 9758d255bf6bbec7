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
    ColorBy,
    Method,
    Points,
    check_embedding_paths,
    draw_points,
    embed_features,
    write_page,
)
from tests.helpers.pages import decode_image, states_of

COLORINGS: list[ColorBy] = ["value", "episode", "step", "action"]


def features_of_rank(rank: int, num_points: int = 50, width: int = 7) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(num_points, rank, generator=rng) @ torch.randn(rank, width, generator=rng)


def make_points(images: bool = False) -> Points:
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 256, (6, 1, 4, 9), np.uint8) if images else rng.random((6, 4))
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
def test_principal_components_preserve_all_distances_of_features_of_rank_up_to_3(rank: int) -> None:
    features = features_of_rank(rank)
    positions, axes = embed_features(features, "pca")
    torch.testing.assert_close(
        _distances(torch.from_numpy(positions)),
        _distances(features.double()),
        atol=1e-5,
        rtol=1e-5,
    )
    shares = [int(re.findall(r"\((\d+)%\)", axis)[0]) for axis in axes]
    assert 99 <= sum(shares) <= 101
    assert shares == sorted(shares, reverse=True)
    assert shares[rank:] == [0] * (3 - rank)


def test_principal_components_do_not_depend_on_the_order_of_the_states() -> None:
    features, order = (
        features_of_rank(5),
        torch.randperm(50, generator=torch.Generator().manual_seed(1)),
    )
    positions, shuffled = (embed_features(f, "pca")[0] for f in (features, features[order]))
    np.testing.assert_allclose(shuffled, positions[order.numpy()], atol=1e-5)


def test_the_third_coordinate_is_0_if_there_are_two_features() -> None:
    positions, axes = embed_features(features_of_rank(2, width=2), "pca")
    assert positions[:, 2].tolist() == [0] * 50
    assert axes[2] == "-"


def test_equal_features_have_equal_positions() -> None:
    positions, _ = embed_features(torch.ones(5, 4), "pca")
    assert positions.tolist() == [[0, 0, 0]] * 5


def test_t_sne_preserves_neighborhoods() -> None:
    manifold = pytest.importorskip("sklearn.manifold")
    features = features_of_rank(3, num_points=200)
    positions, axes = embed_features(features, "tsne")
    # 1 if all nearest neighbors are preserved; 0.5 for random positions.
    assert manifold.trustworthiness(features.numpy(), positions) > 0.9
    assert axes == ["t-SNE 1", "t-SNE 2", "t-SNE 3"]
    assert np.array_equal(embed_features(features, "tsne")[0], positions)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("value", [3, 3, 5, 1, 7, 2]),
        ("action", [2, 0, 1, 0, 2, 0]),
        ("episode", [0, 0, 0, 1, 1, 1]),
        ("step", [0, 4, 9, 0, 1, 2]),
    ],
)
def test_states_are_drawn_as_action_numbers_in_the_chosen_colors(
    name: ColorBy, numbers: list[int]
) -> None:
    points = make_points()
    assert points.color_by(name).tolist() == numbers
    figure = Figure()
    draw_points(figure, points, name)
    axes, bar = figure.axes
    assert bar.get_ylabel() == name
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first", "second")
    drawn = np.concatenate([scatter.get_array() for scatter in axes.collections])
    by_action = np.argsort(points.action, kind="stable")
    assert drawn.tolist() == [numbers[i] for i in by_action]
    assert [len(scatter.get_array()) for scatter in axes.collections] == [3, 1, 2]


def test_a_page_is_self_contained_and_describes_every_state() -> None:
    pytest.importorskip("plotly")
    points = make_points()
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


@pytest.mark.parametrize("images", [False, True])
def test_the_script_of_a_page_reads_exactly_the_fields_that_states_have(images: bool) -> None:
    pytest.importorskip("plotly")
    write_page(Path("page.html"), make_points(images), "value", "fields")
    page = Path("page.html").read_text()
    fields = {field for state in states_of(page) for field in state}
    script = page[page.index("const states = ") :]
    read = set(re.findall(r"\bstate\.(\w+)", script))
    assert read == fields | {"image", "numbers"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_contains_the_images(channels: int) -> None:
    pytest.importorskip("plotly")
    obs = np.zeros((6, channels, 4, 9), np.uint8)
    obs[:, 0] = 40 * np.arange(1, 7, dtype=np.uint8)[:, None, None]
    write_page(Path("page.html"), make_points()._replace(obs=obs), "value", "pixels")
    states = states_of(Path("page.html").read_text())
    for image, state in zip(obs, states, strict=True):
        expected = image[0] if channels == 1 else np.moveaxis(image, 0, -1)
        assert np.array_equal(decode_image(state["image"]), expected)


def test_images_of_floats_are_rescaled_to_grayscale() -> None:
    pytest.importorskip("plotly")
    obs = np.linspace(-1, 1, 6, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 9))
    write_page(Path("page.html"), make_points()._replace(obs=obs), "value", "pixels")
    images = [decode_image(s["image"]) for s in states_of(Path("page.html").read_text())]
    assert [image.shape for image in images] == [(4, 9)] * 6
    assert [image[0, 0] for image in images] == [0, 51, 102, 153, 204, 255]


@pytest.mark.parametrize(
    ("obs", "numbers"),
    [
        (np.full((6, 1), 12_345), "12345"),
        (np.full((6, 2), 0.123456), "0.1235, 0.1235"),
        (np.zeros((6, 2_000)), ", ".join(["0"] * 64) + ", … (2,000)"),
    ],
)
def test_observations_are_formatted_as_numbers(obs: Any, numbers: str) -> None:
    pytest.importorskip("plotly")
    write_page(Path("page.html"), make_points()._replace(obs=obs), "value", "numbers")
    assert states_of(Path("page.html").read_text())[0]["numbers"] == numbers


def test_a_page_has_a_menu_of_colorings() -> None:
    pytest.importorskip("plotly")
    write_page(Path("page.html"), make_points(), "step", "colors")
    page = Path("page.html").read_text()
    names = re.findall(r'"label":"(\w+)"', page)
    assert names == ["value", "episode", "step", "action"]
    bars = re.findall(r'"marker.colorbar.title.text":\["(\w+)"\]', page)
    assert bars == names
    numbers = [make_points().color_by(name).tolist() for name in COLORINGS]
    colors = [json.loads(c) for c in re.findall(r'"textfont.color":\[(\[.*?\])\]', page)]
    for values, text_colors in zip(numbers, colors, strict=True):
        color_of = dict(zip(values, text_colors, strict=True))
        assert [color_of[value] for value in values] == text_colors  # equal values, equal colors
        assert color_of[min(values)] == "#8000ff"  # violet
        assert color_of[max(values)] == "#ff0000"  # red
    shown = re.search(r'"textfont":\{"color":(\[.*?\])', page)
    assert shown is not None
    assert json.loads(shown[1]) == colors[names.index("step")]
    labels = re.search(r'"text":(\[.*?\]),"textposition"', page)
    assert labels is not None
    assert json.loads(labels[1]) == ["2", "0", "1", "0", "2", "0"]


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_features_that_are_nan_are_rejected(method: Method) -> None:
    with pytest.raises(ConfigError, match="features are not finite"):
        embed_features(torch.full((5, 4), torch.nan), method)


def test_t_sne_rejects_equal_features() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ConfigError, match=r"--method: tsne .*equal"):
        embed_features(torch.ones(50, 4), "tsne")


def test_t_sne_accepts_two_features() -> None:
    pytest.importorskip("sklearn")
    positions, _ = embed_features(features_of_rank(2, width=2), "tsne")
    assert positions.shape == (50, 3)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("points.svg", r"points\.svg must end in \.html or \.png"),
        ("no/points.png", "there is no directory no"),
    ],
)
def test_files_that_cannot_be_written_are_rejected(file: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_embedding_paths("pca", [Path(file)])


def test_error_messages_name_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "find_spec", lambda _: None)
    check_embedding_paths("pca", [Path("points.png")])
    with pytest.raises(ConfigError, match=r"plotly \(pip install -e '\.\[plots\]'\)"):
        check_embedding_paths("pca", [Path("points.html")])
    with pytest.raises(ConfigError, match=r"--method: tsne .*scikit-learn"):
        check_embedding_paths("tsne", [Path("points.png")])
