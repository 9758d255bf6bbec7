import pytest

from dqn_lightning.errors import ConfigError
from dqn_lightning.replay import Prioritized, ReplaySettings, Uniform
from dqn_lightning.schedules import Exponential, Linear

INVALID = {
    "capacity": 0,
    "batch_size": 0,
    "frame_stack": 0,
    "n_step": 0,
    "gamma": 1.5,
    "reward_clip": 0.0,
    "reward_scale": float("inf"),
}


@pytest.mark.parametrize(("name", "value"), INVALID.items())
def test_an_invalid_value_is_refused_by_the_name_of_its_flag(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.replay\.{name}.*{value}"):
        ReplaySettings(**{name: value})


def test_a_batch_larger_than_the_replay_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.replay\.batch_size.*64.*data\.replay\.capacity.*63"
    ):
        ReplaySettings(capacity=63, batch_size=64)


def test_max_n_step_of_a_number_is_that_number() -> None:
    assert ReplaySettings(n_step=3).max_n_step(total_env_steps=100) == 3


def test_max_n_step_of_a_schedule_is_its_largest_rounded_value_within_the_run() -> None:
    growing = ReplaySettings(n_step=Linear(1, 11, steps=1_000))
    assert growing.max_n_step(total_env_steps=160) == 3  # 1 + 10 * 0.16 = 2.6
    assert growing.max_n_step(total_env_steps=None) == 11
    shrinking = ReplaySettings(n_step=Exponential(10, 3, steps=25))
    assert shrinking.max_n_step(total_env_steps=160) == 10


def test_a_schedule_that_reaches_an_invalid_n_step_is_refused_with_its_environment_step() -> None:
    settings = ReplaySettings(n_step=Linear(3, 0, steps=100))
    with pytest.raises(ConfigError, match=r"data\.replay\.n_step.*0\.0.*step 100$"):
        settings.max_n_step(total_env_steps=100)


def test_a_replay_must_hold_one_window_of_each_environment() -> None:
    ReplaySettings(capacity=12, batch_size=1, frame_stack=2).check_capacity(2, max_n_step=3)
    too_small = ReplaySettings(capacity=11, batch_size=1, frame_stack=2)
    with pytest.raises(ConfigError, match=r"data\.replay\.capacity.*11.*12 or more"):
        too_small.check_capacity(num_envs=2, max_n_step=3)


def test_sampling_without_replacement_must_always_find_enough_rows() -> None:
    def settings(capacity: int) -> ReplaySettings:
        return ReplaySettings(capacity, batch_size=10, sampler=Uniform(replacement=False))

    settings(21).check_capacity(num_envs=1, max_n_step=1)
    with pytest.raises(ConfigError, match=r"data\.replay\.batch_size.*10.*20.*21 or more"):
        settings(20).check_capacity(num_envs=1, max_n_step=1)


def test_whether_a_batch_may_repeat_rows_is_the_samplers_choice() -> None:
    assert ReplaySettings().samples_with_replacement
    assert ReplaySettings(sampler=Prioritized()).samples_with_replacement
    assert not ReplaySettings(sampler=Uniform(replacement=False)).samples_with_replacement
