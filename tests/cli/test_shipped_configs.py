"""Every shipped config trains, and every variant of CartPole resumes."""

from pathlib import Path

import gymnasium as gym
import pytest
import torch
import yaml

from dqn_lightning.cli.main import main
from tests.helpers.commands import CARTPOLE, CONFIGS

pytestmark = pytest.mark.processes  # runs whole commands

FLAGS = ["--trainer.max_steps=2", "--data.schedule.learning_starts_env_steps=200"]
FLAGS += ["--data.evaluation.every_env_steps=null"]


def ids(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=ids)
def test_shipped_config_trains(config: Path) -> None:
    env_id = yaml.safe_load(config.read_text())["data"]["env"]["id"]
    if env_id not in gym.registry:
        pytest.skip(f"this version of Gymnasium does not have {env_id}")
    if env_id.startswith("LunarLander"):
        pytest.importorskip("Box2D", reason="needs the extra box2d")
    assert main(["fit", "--config", str(config), *FLAGS]) == 0
    last = torch.load(Path("checkpoints", config.stem, "last.ckpt"), weights_only=True)
    assert last["global_step"] == 2


@pytest.mark.parametrize("variant", sorted(CONFIGS.glob("variants/*.yaml")), ids=ids)
def test_variant_of_cartpole_trains_and_resumes(variant: Path) -> None:
    configs = ["--config", str(CARTPOLE), "--config", str(variant)]
    assert main(["fit", *configs, *FLAGS]) == 0
    run = Path("checkpoints", f"cartpole_{variant.stem}")
    resume = ["--ckpt_path=last", "--trainer.max_steps=4", *FLAGS[1:]]
    assert main(["fit", *configs, *resume]) == 0
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4
