"""The commands beside Lightning's own."""

import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from dqn_lightning import DQNDataModule, DQNModule
from dqn_lightning.cli import main
from dqn_lightning.commands import look
from dqn_lightning.envs import CartPoleScreen
from dqn_lightning.networks import CNN, MLP, FrameDifference
from dqn_lightning.plots.screen import Screen, draw_screen

CONFIGS = Path(__file__).parents[1] / "configs"
TUTORIAL = {"screen": CONFIGS / "pytorch_tutorial.yaml"}


def test_screen_writes_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["screen", "--out", "screen.png"], default_configs=TUTORIAL) == 0
    assert "written to screen.png" in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["screen.png"]
    with Image.open("screen.png") as picture:
        assert picture.size[0] > 1_000
        colours = {colour[:3] for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert {(202, 152, 101), (128, 128, 128)} & colours  # the pole, and where nothing moved


def made(network: Any, frame_stack: int = 2) -> tuple[DQNModule, DQNDataModule]:
    torch.manual_seed(0)
    data = DQNDataModule(
        env_kwargs={"render_mode": "rgb_array"}, wrappers=[CartPoleScreen], frame_stack=frame_stack
    )
    return DQNModule(data.obs_shape, data.num_actions, network=network), data


def small(shape: Any) -> CNN:
    return CNN(shape, channels=(2,), kernel_sizes=(5,), strides=(2,), widths=())


def test_screen_shows_what_the_first_layer_with_weights_gets() -> None:
    screen = look(*made(lambda shape: FrameDifference(shape, torso=small)))
    assert screen.rendered.shape == (400, 600, 3)
    assert (screen.observation.shape, screen.observation.dtype) == ((3, 40, 90), np.uint8)
    assert screen.network_input.shape == (3, 40, 90)
    assert screen.network_input.min() < 0 < screen.network_input.max()
    stacked = look(*made(small))
    assert np.array_equal(stacked.observation, screen.observation)  # the same moment
    assert stacked.network_input.shape == (6, 40, 90)
    newest, older = stacked.network_input[3:], stacked.network_input[:3]
    assert np.array_equal(newest, stacked.observation / np.float32(255))
    assert np.array_equal(newest - older, screen.network_input)


def test_screen_shows_the_pictures_themselves_to_a_network_that_flattens_them() -> None:
    assert look(*made(MLP, frame_stack=1)).network_input.shape == (3, 40, 90)


def test_each_picture_is_drawn_with_its_shape() -> None:
    figure = Figure()
    noise = np.random.default_rng(0)
    screen = Screen(
        noise.integers(0, 256, (8, 6, 3)).astype(np.uint8),
        noise.integers(0, 256, (1, 4, 5)).astype(np.uint8),
        noise.uniform(-0.5, 0.5, (2, 4, 5)).astype(np.float32),
    )
    draw_screen(figure, screen)
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions[:2] == ["8 x 6 x 3", "1 x 4 x 5, uint8"]
    assert re.match(r"2 x 4 x 5, -0\.\d\d to 0\.\d\d", captions[2])
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert [picture.shape for picture in pictures] == [(8, 6, 3), (4, 5), (8, 5)]
    assert pictures[2].min() >= 0
    assert pictures[2].max() <= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--out: there is no display; name a file"),
        (["--out=nowhere/screen.png"], r"--out: nowhere/screen\.png cannot be written"),
        (["--out=screen.nonsense"], r"--out: screen\.nonsense cannot be written \(Format"),
        (["--out=x.png", "--config", str(CONFIGS / "cartpole.yaml")], r"no pictures but \(4,\)"),
        (["--out=x.png", "--data.env_kwargs.render_mode=null"], r"--data\.env_kwargs\.render_mode"),
    ],
)
def test_bad_input_is_said(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib.use("Agg")
    assert main(["screen", *flags], default_configs=TUTORIAL) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert not list(Path().iterdir())


def test_an_environment_that_does_not_draw_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data.env_id=toy/Pictures-v0", "--data.wrappers=[]", "--data.env_kwargs={}"]
    flags += ["--data.eval_env_kwargs={}", "--out=x.png"]
    assert main(["screen", *flags], default_configs=TUTORIAL) == 2
    assert "screen: toy/Pictures-v0 does not draw" in capsys.readouterr().err
