"""The weights that come with the project play as they are said to."""

import json
import shutil
from pathlib import Path

import pytest

from dqn_lightning.cli import main

PRETRAINED = Path(__file__).parents[1] / "checkpoints" / "pretrained"


@pytest.mark.parametrize("name", ["cartpole", "cartpole_pixels"])
def test_they_balance_the_pole(name: str) -> None:
    shutil.copytree(PRETRAINED / name, name)
    said = json.loads(Path(name, "test.json").read_text())
    assert said["episodes"] == 100
    assert said["return_mean"] >= 475
    assert main(["test", "--ckpt_path", f"{name}/best.ckpt", "--data.test_episodes=10"]) == 0
    played = json.loads(Path(name, "test.json").read_text())
    assert played["episodes"] == 10
    assert played["return_mean"] > 400  # of the same episodes; arithmetic differs by machine


def test_they_are_small() -> None:
    for path in PRETRAINED.rglob("*"):
        assert path.stat().st_size < 2**21
