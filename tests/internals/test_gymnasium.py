"""Private attributes of Gymnasium still exist and mean what `internals.gymnasium` assumes."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from dqn_lightning.internals import gymnasium as internals
from tests.helpers import toy

VERSION = f"Gymnasium {gym.__version__}"


def test_sync_vector_env_still_stores_which_environments_reset_in_the_next_step() -> None:
    envs = SyncVectorEnv([toy.Walk, toy.Walk])
    reason = f"{VERSION}: SyncVectorEnv._autoreset_envs is gone or has changed; see internals"
    assert hasattr(envs, "_autoreset_envs"), reason
    envs.reset(seed=0)
    for _ in range(20):
        _, _, terminated, truncated, _ = envs.step(np.zeros(2, np.int64))
        ended = (terminated | truncated).tolist()
        assert internals.envs_to_reset(envs).tolist() == ended, reason
    internals.set_envs_to_reset(envs, np.array([True, False]))
    obs, *_ = envs.step(np.zeros(2, np.int64))
    assert obs[0, 1] == 0, reason  # step 0 of an episode
    assert obs[1, 1] > 0, reason


def test_async_vector_env_still_reports_the_errors_of_workers_to_an_overridden_method() -> None:
    reason = f"{VERSION}: AsyncVectorEnv no longer calls _raise_if_errors; see internals"
    assert hasattr(AsyncVectorEnv, "_raise_if_errors"), reason
    envs = internals.CausedAsyncVectorEnv([partial(toy.Walk, fail_at=1)] * 2)
    envs.reset(seed=0)
    with pytest.raises(ZeroDivisionError) as info:
        envs.step(np.zeros(2, np.int64))
    assert isinstance(info.value.__cause__, internals.WorkerTraceback), reason
    assert "in step" in str(info.value.__cause__), reason
    envs.close(terminate=True)


def test_workers_of_async_vector_env_can_still_be_asked_to_close() -> None:
    envs = internals.CausedAsyncVectorEnv([toy.Walk, toy.Walk])
    envs.request_close()
    for process in envs.processes:
        process.join(10)
    reason = f"{VERSION}: a worker does not end after the command close; see internals"
    assert [process.exitcode for process in envs.processes] == [0, 0], reason
    envs.close(terminate=True)


def test_wrappers_still_record_their_constructor_arguments() -> None:
    wrapper = TimeLimit(toy.Walk(), max_episode_steps=5)
    reason = f"{VERSION}: RecordConstructorArgs has no attribute _saved_kwargs; see internals"
    assert getattr(wrapper, internals.RECORDED_ARGUMENTS, None) == {"max_episode_steps": 5}, reason


def test_arguments_that_a_constructor_does_not_accept_are_still_detected_by_make() -> None:
    reason = f"{VERSION}: gymnasium.make no longer calls constructors itself; see internals"
    with pytest.raises(TypeError) as info:
        gym.make("CartPole-v1", color="red")
    assert internals.is_raised_by_make(info.value), reason


def test_an_error_inside_a_constructor_is_not_raised_by_make() -> None:
    def broken(**kwargs: Any) -> gym.Env[Any, Any]:
        raise TypeError

    with pytest.raises(TypeError) as info:
        gym.make(gym.envs.registration.EnvSpec("toy/Broken-v0", broken))
    assert not internals.is_raised_by_make(info.value)
