from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from dqn_lightning.envs import EnvFactory, obs_classes
from dqn_lightning.errors import ConfigError
from tests import toy


def make(observation_space: Any, action_space: Any = None, num_envs: int = 2) -> VectorEnv:
    kwargs = {"observation_space": observation_space, "action_space": action_space}
    return EnvFactory("toy/Spaces-v0", kwargs).make_vector(num_envs)


def test_one_environment_behaves_as_a_vector_of_one_does() -> None:
    lean = EnvFactory("toy/Walk-v0").make_vector(1, "single")
    reference = SyncVectorEnv([toy.Walk])
    seen = []
    for envs in (lean, reference):
        obs, _ = envs.reset(seed=3)
        rows = [obs.tolist()]
        for i in range(60):
            rows.append([x.tolist() for x in envs.step(np.array([i % 3]))[:4]])
        seen.append(rows)
    assert seen[0] == seen[1]
    assert lean.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_pictures_become_channel_first() -> None:
    space = spaces.Box(0, 255, (20, 30, 3), np.uint8)
    envs = make(space)
    assert envs.single_observation_space.shape == (3, 20, 30)
    obs, _ = envs.reset(seed=0)
    space.seed(0)
    picture = space.sample()
    assert obs.dtype == np.uint8
    assert (obs[0] == picture.transpose(2, 0, 1)).all()


def test_grey_pictures_get_a_channel_and_channel_first_ones_stay() -> None:
    grey = make(spaces.Box(0, 255, (20, 30), np.uint8))
    assert grey.reset(seed=0)[0].shape == (2, 1, 20, 30)
    first = make(spaces.Box(0, 255, (3, 20, 30), np.uint8))
    assert first.reset(seed=0)[0].shape == (2, 3, 20, 30)


def test_discrete_observations_become_class_numbers_from_zero() -> None:
    envs = make(spaces.Discrete(4, start=10))
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, 1)
    assert obs.min() >= 0
    assert obs.max() < 4
    assert obs_classes(envs.single_observation_space) == (4,)


def test_multi_discrete_observations_become_flat_class_numbers() -> None:
    envs = make(spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [1, 1]]))
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, 4)
    assert (obs < np.array([2, 3, 4, 5])).all()
    assert obs_classes(envs.single_observation_space) == (2, 3, 4, 5)


def test_scalars_become_vectors_and_bits_stay() -> None:
    assert make(spaces.Box(-1, 1, (), np.float32)).reset(seed=0)[0].shape == (2, 1)
    bits = make(spaces.MultiBinary(5))
    assert bits.reset(seed=0)[0].shape == (2, 5)
    assert obs_classes(bits.single_observation_space) is None


@pytest.mark.parametrize("num_envs", [1, 2])
def test_actions_start_where_the_environment_wants(num_envs: int) -> None:
    made = []

    def remember(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        made.append(env.unwrapped)
        return env

    kwargs = {
        "observation_space": spaces.Discrete(3),
        "action_space": spaces.Discrete(3, start=-1),
    }
    envs = EnvFactory("toy/Spaces-v0", kwargs, [remember]).make_vector(num_envs)
    envs.reset(seed=0)
    envs.step(np.full(num_envs, 2))
    assert made[-1].actions == [1]
    assert envs.single_action_space.n == 3


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Dict({"a": spaces.Discrete(2)}), "FlattenObservation"),
        (spaces.Tuple([spaces.Discrete(2)]), "FlattenObservation"),
        (spaces.Text(5), "wrapper of yours"),
    ],
)
def test_observations_that_are_no_array_are_refused_with_the_wrapper(
    space: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(space)


def test_a_dict_is_taken_once_it_is_flattened() -> None:
    kwargs = {"observation_space": spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1)})}
    factory = EnvFactory("toy/Spaces-v0", kwargs, [gym.wrappers.FlattenObservation])
    assert factory.make_vector(2).reset(seed=0)[0].shape == (2, 3)


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(ConfigError, match="discrete actions"):
        EnvFactory("Pendulum-v1").make_vector(1)


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data\.env_id: CartPol-v1 .*CartPole-v1"):
        EnvFactory("CartPol-v1").make()
    with pytest.raises(ConfigError, match="nowhere"):
        EnvFactory("nowhere:Env-v0").make()


def test_arguments_that_the_environment_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.env_kwargs.*colour"):
        EnvFactory("CartPole-v1", {"colour": "red"}).make()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any, **__: Any) -> None:
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gym, "make", make)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[box2d\]'"):
        EnvFactory("LunarLander-v3").make()


def test_auto_takes_the_leanest_way() -> None:
    cartpole = EnvFactory("CartPole-v1")
    assert type(cartpole.make_vector(1)).__name__ == "SingleVectorEnv"
    assert type(cartpole.make_vector(3).unwrapped).__name__ == "CartPoleVectorEnv"
    assert type(EnvFactory("Acrobot-v1").make_vector(3).unwrapped).__name__ == "SyncVectorEnv"


def test_ways_that_an_environment_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="no vector version"):
        EnvFactory("Acrobot-v1").make_vector(2, "native")
    with pytest.raises(ConfigError, match=r"data\.num_envs 1, not 2"):
        EnvFactory("Acrobot-v1").make_vector(2, "single")
