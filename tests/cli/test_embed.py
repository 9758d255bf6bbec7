"""The command `embed`."""

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dqn_lightning import DQNModule
from dqn_lightning.cli.main import main
from dqn_lightning.envs import CartPoleScreen
from dqn_lightning.interaction.evaluation import EvaluationSettings
from dqn_lightning.plots import embedding
from dqn_lightning.plots.embedding import embed_features
from tests.helpers.commands import CARTPOLE, CONFIGS, assert_rejected, copy_pretrained
from tests.helpers.pages import coordinates_of, decode_image, states_of

pytestmark = pytest.mark.processes  # runs whole commands

RAINBOW = ["--config", str(CONFIGS / "variants" / "rainbow.yaml")]


def play_naively(name: str, episode: int, num_steps: int) -> list[tuple[Any, Tensor, Tensor]]:
    """Return newest observation, action values and features of each step, using only Gymnasium."""
    module = DQNModule.load_from_checkpoint(f"{name}/best.ckpt", map_location="cpu").eval()
    env: Any = gym.make("CartPole-v1", render_mode="rgb_array")
    if name == "cartpole_pixels":
        env = CartPoleScreen(env, grayscale=True)
    obs, _ = env.reset(seed=EvaluationSettings().test_seed + episode)
    stack, steps = [obs] * 4, []
    for _ in range(num_steps):
        network_input = torch.as_tensor(obs)
        if obs.ndim == 3:
            network_input = torch.as_tensor(np.concatenate(stack, axis=2)).movedim(2, 0)
        with torch.no_grad():
            q_values = module.acting_network(network_input[None]).q_values[0]
            features = module.acting_network.features(network_input[None])[0]
        steps.append((obs, q_values, features))
        obs, *_ = env.step(int(q_values.argmax()))
        stack = [*stack[1:], obs]
    return steps


@pytest.mark.parametrize("name", ["cartpole", "cartpole_pixels"])
def test_points_show_the_states_that_a_naive_loop_visits(name: str) -> None:
    pytest.importorskip("plotly")
    # Gymnasium's vector CartPole does not accept max_episode_steps, so each episode has its own
    # environment and seed.
    flags = ["--points=30", "--episodes=2", "--data.evaluation.env_kwargs.max_episode_steps=50"]
    assert main(["embed", "--ckpt_path", copy_pretrained(name), "--out=page.html", *flags]) == 0
    page = Path("page.html").read_text()
    states = states_of(page)
    assert len(states) == 30
    assert {state["text"].split(",")[0] for state in states} == {"episode 0", "episode 1"}
    episodes = [play_naively(name, episode, num_steps=50) for episode in range(2)]
    features = []
    for state in states:
        episode, step, action = map(int, re.findall(r"\d+", state["text"]))
        obs, q_values, state_features = episodes[episode][step]
        features.append(state_features)
        assert action == q_values.argmax()
        shown = [float(value) for value in state["values"].split(", ")]
        assert shown == pytest.approx(q_values.tolist(), rel=1e-3)
        if name == "cartpole":
            assert state["numbers"] == ", ".join(f"{x:.4g}" for x in obs.tolist())
        else:
            assert np.array_equal(decode_image(state["image"]), obs[..., 0])
    positions, _ = embed_features(torch.stack(features), "pca")
    for axis, expected in zip("xyz", positions.T, strict=True):
        np.testing.assert_allclose(coordinates_of(page, axis), expected, atol=1e-3)


def test_features_are_the_input_of_the_head(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[Tensor] = []

    def record_and_embed(features: Tensor, method: embedding.Method) -> Any:
        embedded.append(features)
        return embed_features(features, method)

    monkeypatch.setattr("dqn_lightning.cli.embed.embed_features", record_and_embed)
    flags = ["--points=150", "--episodes=25", "--out=x.png", "--method=tsne"]
    assert main(["embed", "--config", str(CARTPOLE), *RAINBOW, *flags]) == 0
    assert "x.png" in capsys.readouterr().out
    (features,) = embedded
    assert len(features) == 150
    assert (features >= 0).all()  # the torso ends with a ReLU
    assert len(features.unique(dim=0)) > 100


def test_embed_writes_a_page_and_an_image_next_to_the_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("plotly")
    flags = ["--points=20", "--episodes=1", "--color=action"]
    assert main(["embed", "--ckpt_path", copy_pretrained("cartpole"), *flags]) == 0
    written = re.findall(r"(\S+) \(\d+\.\d MB\)", capsys.readouterr().out)
    assert written == ["cartpole/embedding.html", "cartpole/embedding.png"]
    assert Path(written[0]).is_file()
    with Image.open(written[1]) as image:
        assert image.size == (1200, 900)


@pytest.mark.parametrize(
    ("config", "flags"), [("cartpole", ["--data.env.id=toy/Walk-v0"]), ("taxi", [])]
)
def test_short_episodes_and_integer_observations_can_be_embedded(
    config: str, flags: list[str]
) -> None:
    pytest.importorskip("plotly")
    flags = [*flags, "--episodes=3", "--data.evaluation.env_kwargs.max_episode_steps=9"]
    assert main(["embed", "--config", str(CONFIGS / f"{config}.yaml"), *flags]) == 0
    page = Path("embedding.html").read_text()
    assert "3 episodes, untrained weights" in page
    assert all(re.fullmatch(r"\d+(, \d+)*", state["numbers"]) for state in states_of(page))


def test_fewer_than_four_visited_states_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--episodes=1", "--data.env.id=toy/Walk-v0", "--out=x.png"]
    flags += ["--data.evaluation.env_kwargs.max_episode_steps=1"]
    assert_rejected(["embed", "--config", str(CARTPOLE), *flags], r"--episodes: .*\b1\b", capsys)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--points=3"], r"--points: must be at least 4, got 3"),
        (["--episodes=0"], r"--episodes: must be positive, got 0"),
        (["--out=x.svg"], r"--out: x\.svg .*\.html or \.png"),
        (["--out=nowhere/x.png"], r"--out: nowhere/x\.png .*directory nowhere"),
        (["--out=x.png", "--ckpt_path=x.ckpt"], r"--ckpt_path: x\.ckpt "),
    ],
)
def test_invalid_settings_are_rejected_and_nothing_is_written(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_rejected(["embed", *flags, "--config", str(CARTPOLE)], words, capsys)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out=x.html"], r"--out: .*plotly .*pip install -e '\.\[plots\]'"),
        (["--out=x.png", "--method=tsne"], r"--method: tsne .*scikit-learn"),
    ],
)
def test_missing_packages_are_named(
    flags: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "find_spec", lambda _: None)
    assert_rejected(["embed", *flags, "--config", str(CARTPOLE)], words, capsys)
    assert not list(Path().iterdir())
