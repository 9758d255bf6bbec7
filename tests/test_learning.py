"""The shipped configs reach the returns that the README reports."""

import json
from pathlib import Path

import pytest

from dqn_lightning.cli.main import main
from tests.helpers.processes import command, finish

CONFIGS = Path(__file__).parents[1] / "configs"


def best_return(config: str, *flags: str) -> float:
    """Train, and return the mean return of `best.ckpt` over 100 test episodes."""
    assert main(["fit", "--config", str(CONFIGS / f"{config}.yaml"), "--run_name=run", *flags]) == 0
    assert main(["test", "--ckpt_path", "checkpoints/run/best.ckpt"]) == 0
    return float(json.loads(Path("checkpoints/run/test.json").read_text())["return_mean"])


def test_cartpole_is_far_better_than_a_random_policy_after_5120_steps() -> None:
    assert best_return("cartpole", "--data.schedule.total_env_steps=5120") > 80  # random policy: 22


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 6))
def test_cartpole_is_solved(seed: int) -> None:
    assert best_return("cartpole", f"--seed_everything={seed}") >= 475


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(1, 4))
def test_cartpole_is_solved_by_two_ranks(seed: int) -> None:
    """Halve the batch and the period of updates, so that two ranks learn as one process does."""
    halves = ("--data.replay.batch_size=32", "--data.schedule.train_every_env_steps=128")
    result = finish(
        command("fit", "--trainer.devices=2", *halves, f"--seed_everything={seed}"), 900
    )
    assert result.returncode == 0, result.stderr
    assert main(["test", "--ckpt_path", "checkpoints/cartpole/best.ckpt"]) == 0
    assert json.loads(Path("checkpoints/cartpole/test.json").read_text())["return_mean"] >= 475


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mountain_car_reaches_the_flag() -> None:
    assert best_return("mountaincar") > -105
