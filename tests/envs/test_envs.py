import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from dqn_lightning.envs import EnvFactory, Vectorization, obs_classes
from dqn_lightning.errors import ConfigError
from tests.helpers import toy


def make(observation_space: Any, action_space: Any = None, num_envs: int = 2) -> VectorEnv:
    kwargs = {"observation_space": observation_space, "action_space": action_space}
    return EnvFactory("toy/Spaces-v0", kwargs).make_vector(num_envs)


def test_a_single_vector_environment_behaves_like_sync_vector_env() -> None:
    single = EnvFactory("toy/Walk-v0").make_vector(1, "single")
    reference = SyncVectorEnv([toy.Walk])
    seen = []
    for envs in (single, reference):
        obs, _ = envs.reset(seed=3)
        rows = [obs.tolist()]
        for i in range(60):
            rows.append([x.tolist() for x in envs.step(np.array([i % 3]))[:4]])
        seen.append(rows)
    assert seen[0] == seen[1]
    assert single.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_images_become_channel_first() -> None:
    space = spaces.Box(0, 255, (20, 30, 3), np.uint8)
    envs = make(space)
    assert envs.single_observation_space.shape == (3, 20, 30)
    obs, _ = envs.reset(seed=0)
    space.seed(0)
    image = space.sample()
    assert obs.dtype == np.uint8
    assert (obs[0] == image.transpose(2, 0, 1)).all()


def test_grayscale_images_get_a_channel_and_channel_first_images_do_not_change() -> None:
    grayscale = make(spaces.Box(0, 255, (20, 30), np.uint8))
    assert grayscale.reset(seed=0)[0].shape == (2, 1, 20, 30)
    first = make(spaces.Box(0, 255, (3, 20, 30), np.uint8))
    assert first.reset(seed=0)[0].shape == (2, 3, 20, 30)


def test_discrete_observations_become_class_indices_from_0() -> None:
    envs = make(spaces.Discrete(4, start=10))
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, 1)
    assert obs.min() >= 0
    assert obs.max() < 4
    assert obs_classes(envs.single_observation_space) == (4,)


def test_multi_discrete_observations_become_flat_class_indices() -> None:
    envs = make(spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [1, 1]]))
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (2, 4)
    assert (obs < np.array([2, 3, 4, 5])).all()
    assert obs_classes(envs.single_observation_space) == (2, 3, 4, 5)


def test_scalars_become_vectors_and_binary_vectors_do_not_change() -> None:
    assert make(spaces.Box(-1, 1, (), np.float32)).reset(seed=0)[0].shape == (2, 1)
    bits = make(spaces.MultiBinary(5))
    assert bits.reset(seed=0)[0].shape == (2, 5)
    assert obs_classes(bits.single_observation_space) is None


@pytest.mark.parametrize("num_envs", [1, 2])
def test_actions_are_offset_by_the_start_of_the_action_space(num_envs: int) -> None:
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
        (spaces.Text(5), r"data\.env\.wrappers\+=YOUR_WRAPPER"),
    ],
)
def test_observations_that_are_not_arrays_are_refused_with_a_wrapper_to_use(
    space: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(space)


def test_flattened_dict_observations_are_supported() -> None:
    kwargs = {"observation_space": spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1)})}
    factory = EnvFactory("toy/Spaces-v0", kwargs, [gym.wrappers.FlattenObservation])
    assert factory.make_vector(2).reset(seed=0)[0].shape == (2, 3)


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.env\.id.*discrete actions.*data\.env\.wrappers"):
        EnvFactory("Pendulum-v1").make_vector(1)


def test_an_unknown_id_is_refused_with_similar_ids() -> None:
    with pytest.raises(ConfigError, match=r"data\.env\.id: CartPol-v1 .*CartPole-v1"):
        EnvFactory("CartPol-v1").make()
    with pytest.raises(ConfigError, match="nowhere"):
        EnvFactory("nowhere:Env-v0").make()


def test_arguments_that_the_environment_does_not_accept_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.env\.kwargs.*color"):
        EnvFactory("CartPole-v1", {"color": "red"}).make()


def test_a_missing_package_is_reported_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(*_: Any, **__: Any) -> None:
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gym, "make", make)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[box2d\]'"):
        EnvFactory("LunarLander-v3").make()


def test_auto_chooses_the_vectorization_with_the_least_overhead() -> None:
    cartpole = EnvFactory("CartPole-v1")
    assert type(cartpole.make_vector(1)).__name__ == "SingleVectorEnv"
    assert type(cartpole.make_vector(3).unwrapped).__name__ == "CartPoleVectorEnv"
    assert type(EnvFactory("Acrobot-v1").make_vector(3).unwrapped).__name__ == "SyncVectorEnv"


@pytest.mark.parametrize("vectorization", ["auto", "native"])
def test_a_native_vector_of_an_imported_module_can_be_used(
    vectorization: Vectorization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cartpole = "gymnasium.envs.classic_control.cartpole"
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium as gym\n"
        f"gym.register('toy/Native-v0', '{cartpole}:CartPoleEnv', max_episode_steps=9,\n"
        f"    vector_entry_point='{cartpole}:CartPoleVectorEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        envs = EnvFactory("my_envs:toy/Native-v0").make_vector(3, vectorization)
    finally:
        gym.registry.pop("toy/Native-v0", None)
        sys.modules.pop("my_envs", None)
    assert type(envs.unwrapped).__name__ == "CartPoleVectorEnv"


@pytest.mark.filterwarnings("ignore:.*Using the latest versioned environment")
def test_an_id_without_a_version_can_have_a_native_vector() -> None:
    envs = EnvFactory("CartPole").make_vector(3)
    assert type(envs.unwrapped).__name__ == "CartPoleVectorEnv"


def test_an_environment_that_exits_when_it_is_created_is_refused() -> None:
    def script(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        sys.exit(0)

    with pytest.raises(ConfigError, match=r"data\.env\.id: CartPole-v1 called sys\.exit\(0\)"):
        EnvFactory("CartPole-v1", {}, [script]).make()


def test_unavailable_vectorizations_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.env\.vectorization: Acrobot.*native"):
        EnvFactory("Acrobot-v1").make_vector(2, "native")
    with pytest.raises(ConfigError, match=r"data\.env\.num_envs 1.*2"):
        EnvFactory("Acrobot-v1").make_vector(2, "single")


def test_a_type_error_inside_a_constructor_is_not_blamed_on_the_keyword_arguments() -> None:
    def broken(**kwargs: Any) -> gym.Env[Any, Any]:
        raise TypeError("unsupported operand")

    gym.register("toy/Broken-v0", broken)
    try:
        with pytest.raises(TypeError, match="unsupported operand"):
            EnvFactory("toy/Broken-v0", {"color": "red"}).make()
    finally:
        gym.registry.pop("toy/Broken-v0")


def test_a_type_error_of_a_wrapper_is_not_blamed_on_the_keyword_arguments() -> None:
    def broken(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        raise TypeError("unsupported operand")

    with pytest.raises(TypeError, match="unsupported operand") as info:
        EnvFactory("CartPole-v1", {}, [broken]).make()
    if sys.version_info >= (3, 11):
        (note,) = info.value.__notes__
        assert "data.env.wrappers" in note
        assert "broken" in note


def test_a_wrapper_that_is_not_callable_is_refused() -> None:
    wrappers: Any = [gym.wrappers.FlattenObservation, "FlattenObservation"]
    with pytest.raises(ConfigError, match=r"data\.env\.wrappers: 'FlattenObservation'.*callable"):
        EnvFactory("CartPole-v1", {}, wrappers).make()


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (lambda env: None, "<lambda>.*NoneType"),
        (partial(lambda env, factor: factor, factor=2), "<lambda>.*int"),
        (type("Wrong", (), {"__init__": lambda self, env: None}), "Wrong.*Wrong"),
    ],
)
def test_a_wrapper_that_does_not_return_an_environment_is_refused(
    wrapper: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"data\.env\.wrappers: {message}"):
        EnvFactory("CartPole-v1", {}, [wrapper]).make()


def test_a_package_that_a_wrapper_needs_is_blamed_on_the_wrapper() -> None:
    def resize(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        raise gym.error.DependencyNotInstalled("opencv is not installed")

    with pytest.raises(ConfigError, match=r"data\.env\.wrappers: resize.*opencv"):
        EnvFactory("CartPole-v1", {}, [resize]).make()
