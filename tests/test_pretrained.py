"""The shipped weights reach the scores that are stored beside them."""

import json
import shutil
from pathlib import Path

import pytest

from dqn_lightning.cli.main import main

PRETRAINED = Path(__file__).parents[1] / "checkpoints" / "pretrained"


@pytest.mark.parametrize("name", ["cartpole", "cartpole_pixels"])
def test_pretrained_agents_balance_the_pole(name: str) -> None:
    shutil.copytree(PRETRAINED / name, name)
    stored = json.loads(Path(name, "test.json").read_text())
    assert stored["episodes"] == 100
    assert stored["return_mean"] >= 475
    test = ["test", "--ckpt_path", f"{name}/best.ckpt", "--data.evaluation.test_episodes=10"]
    assert main(test) == 0
    measured = json.loads(Path(name, "test.json").read_text())
    assert measured["episodes"] == 10
    assert measured["return_mean"] > 400  # the same episodes, but arithmetic differs by machine


def test_pretrained_files_are_smaller_than_2_mib() -> None:
    paths = list(PRETRAINED.rglob("*.*"))
    assert len(paths) == 6
    assert all(path.stat().st_size < 2**21 for path in paths)
