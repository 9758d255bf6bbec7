"""The command `screen`."""

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
from dqn_lightning.cli.main import main
from dqn_lightning.cli.screen import capture_screen
from dqn_lightning.envs import CartPoleScreen
from dqn_lightning.networks import CNN, MLP, FrameDifference
from dqn_lightning.plots.screen import Screen, draw_screen
from tests.helpers.commands import CARTPOLE, CONFIGS, assert_rejected
from tests.helpers.settings import make_datamodule

PIXELS = {"screen": CONFIGS / "pytorch_tutorial.yaml"}
"""The default config: CartPole from images."""


def make_parts(network: Any, frame_stack: int = 2) -> tuple[DQNModule, DQNDataModule]:
    torch.manual_seed(0)
    data = make_datamodule(
        env_kwargs={"render_mode": "rgb_array"}, wrappers=[CartPoleScreen], frame_stack=frame_stack
    )
    return DQNModule(data.obs_shape, data.num_actions, network=network), data


def small_cnn(obs_shape: Any) -> CNN:
    return CNN(obs_shape, channels=(2,), kernel_sizes=(5,), strides=(2,), widths=())


def test_screen_writes_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["screen", "--out", "screen.png"], default_configs=PIXELS) == 0
    assert "screen.png" in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["screen.png"]
    with Image.open("screen.png") as image:
        assert image.size[0] > 1_000
        colors = {color[:3] for _, color in image.convert("RGB").getcolors(10**6)}
    assert {(202, 152, 101), (128, 128, 128)} & colors  # the pole, and pixels without motion


def test_network_input_is_the_input_of_the_first_layer_with_weights() -> None:
    screen = capture_screen(*make_parts(lambda shape: FrameDifference(shape, torso=small_cnn)))
    assert screen.rendered.shape == (400, 600, 3)
    assert (screen.observation.shape, screen.observation.dtype) == ((3, 40, 90), np.uint8)
    assert screen.network_input.shape == (3, 40, 90)
    assert screen.network_input.min() < 0 < screen.network_input.max()
    stacked = capture_screen(*make_parts(small_cnn))
    assert np.array_equal(stacked.observation, screen.observation)  # the same step
    assert stacked.network_input.shape == (6, 40, 90)
    newest, older = stacked.network_input[3:], stacked.network_input[:3]
    assert np.array_equal(newest, stacked.observation / np.float32(255))
    assert np.array_equal(newest - older, screen.network_input)


def test_network_input_is_the_image_if_the_first_layer_flattens_it() -> None:
    screen = capture_screen(*make_parts(MLP, frame_stack=1))
    assert screen.network_input.shape == (3, 40, 90)


def test_each_image_is_drawn_with_its_shape() -> None:
    figure = Figure()
    rng = np.random.default_rng(0)
    screen = Screen(
        rng.integers(0, 256, (8, 6, 3)).astype(np.uint8),
        rng.integers(0, 256, (1, 4, 5)).astype(np.uint8),
        rng.uniform(-0.5, 0.5, (2, 4, 5)).astype(np.float32),
    )
    draw_screen(figure, screen)
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions[:2] == ["8 x 6 x 3", "1 x 4 x 5, uint8"]
    assert re.match(r"2 x 4 x 5, -0\.\d\d to 0\.\d\d", captions[2])
    images = [axes.images[0].get_array() for axes in figure.axes]
    assert [image.shape for image in images] == [(8, 6, 3), (4, 5), (8, 5)]
    assert images[2].min() >= 0
    assert images[2].max() <= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], r"--out: .*display"),
        (["--out=nowhere/screen.png"], r"--out: nowhere/screen\.png"),
        (["--out=screen.nonsense"], r"--out: screen\.nonsense .*Format"),
        (["--out=x.png", "--config", str(CARTPOLE)], r"screen: .*\(4,\)"),
        (["--out=x.png", "--data.env.kwargs.render_mode=null"], r"--data\.env\.kwargs\.render"),
        (
            [
                "--data.env.id=toy/Images-v0",
                "--data.env.wrappers=[]",
                "--data.env.kwargs={}",
                "--data.evaluation.env_kwargs={}",
                "--out=x.png",
            ],
            r"screen: toy/Images-v0 .*render",
        ),
    ],
)
def test_invalid_settings_are_rejected_and_nothing_is_written(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib.use("Agg")
    assert_rejected(["screen", *flags], words, capsys, PIXELS)
    assert not list(Path().iterdir())
