"""It learns what it claims to. Most of this is slow; results of all seeds stand in the README."""

import json
from pathlib import Path

import pytest

from dqn_lightning.cli import main
from tests.processes import command, finish

CONFIGS = Path(__file__).parents[1] / "configs"


def best_return(config: str, *flags: str) -> float:
    """Train, then test `best.ckpt` on 100 episodes."""
    assert main(["fit", "--config", str(CONFIGS / f"{config}.yaml"), "--run_name=run", *flags]) == 0
    assert main(["test", "--ckpt_path", "checkpoints/run/best.ckpt"]) == 0
    return float(json.loads(Path("checkpoints/run/test.json").read_text())["return_mean"])


def test_cartpole_is_far_better_than_chance_after_5120_steps() -> None:
    assert best_return("cartpole", "--data.total_env_steps=5120") > 80  # chance: 22


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 6))
def test_cartpole_is_solved(seed: int) -> None:
    assert best_return("cartpole", f"--seed_everything={seed}") >= 475


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(1, 4))
def test_cartpole_is_solved_by_two_ranks(seed: int) -> None:
    """With batches and periods halved it is the algorithm of one."""
    halves = ("--data.batch_size=32", "--data.train_every_env_steps=128")
    result = finish(
        command("fit", "--trainer.devices=2", *halves, f"--seed_everything={seed}"), 900
    )
    assert result.returncode == 0, result.stderr
    assert main(["test", "--ckpt_path", "checkpoints/cartpole/best.ckpt"]) == 0
    assert json.loads(Path("checkpoints/cartpole/test.json").read_text())["return_mean"] >= 475


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mountain_car_reaches_its_flag() -> None:
    assert best_return("mountaincar") > -105
