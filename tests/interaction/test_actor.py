import pytest

from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.actor import ExplorationSettings
from dqn_lightning.schedules import Linear


@pytest.mark.parametrize("epsilon", [-0.1, 1.1])
def test_an_epsilon_that_is_no_probability_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.exploration\.epsilon.*{epsilon}"):
        ExplorationSettings(epsilon)


def test_a_schedule_that_leaves_the_range_of_a_probability_is_refused() -> None:
    ExplorationSettings(Linear(1.0, 0.0, steps=1_000))
    with pytest.raises(ConfigError, match=r"data\.exploration\.epsilon.*-1\.0.*step 1000$"):
        ExplorationSettings(Linear(1.0, -1.0, steps=1_000))
