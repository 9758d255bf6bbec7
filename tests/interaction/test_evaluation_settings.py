import dataclasses
import re
from typing import Any

import pytest

from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.evaluation import EvaluationSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every_env_steps", 0),
        ("episodes", 0),
        ("max_steps", 0),
        ("test_episodes", -1),
        ("seed", -1),
        ("test_seed", -2),
        ("epsilon", -0.1),
        ("epsilon", 1.5),
        ("epsilon", float("nan")),
    ],
)
def test_invalid_values_are_rejected_with_the_flag_and_the_value(name: str, value: Any) -> None:
    message = rf"^data\.evaluation\.{name}: must .*{re.escape(str(value))}$"
    with pytest.raises(ConfigError, match=message):
        EvaluationSettings(**{name: value})


def test_the_smallest_and_largest_valid_values_are_accepted() -> None:
    EvaluationSettings(every_env_steps=1, episodes=1, epsilon=0, seed=0, test_episodes=1)
    assert EvaluationSettings(every_env_steps=None, epsilon=1).every_env_steps is None


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EvaluationSettings().episodes = 5  # type: ignore[misc]
