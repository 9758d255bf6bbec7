from typing import Any

import pytest
from gymnasium.wrappers import FlattenObservation
from jsonargparse import ArgumentParser

from dqn_lightning.envs import EnvSettings
from dqn_lightning.errors import ConfigError


def parse(*flags: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EnvSettings, "env")
    return parser.instantiate(parser.parse_args(list(flags))).env


def test_fewer_than_one_environment_is_refused_by_the_name_of_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"data\.env\.num_envs.*0"):
        EnvSettings(num_envs=0)


def test_every_setting_can_be_given_as_a_flag() -> None:
    settings = parse(
        "--env.id=Acrobot-v1",
        "--env.kwargs.render_mode=rgb_array",
        "--env.wrappers+=gymnasium.wrappers.FlattenObservation",
        "--env.num_envs=2",
        "--env.vectorization=sync",
    )
    (flatten,) = settings.wrappers
    assert flatten.args[-1] is FlattenObservation  # the parser's function that calls it
    assert settings == EnvSettings(
        "Acrobot-v1", {"render_mode": "rgb_array"}, settings.wrappers, 2, "sync"
    )
