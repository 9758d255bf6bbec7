"""Restored environments continue exactly like the ones that were saved."""

import multiprocessing
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers

from dqn_lightning.checkpointing import files
from dqn_lightning.envs import CartPoleScreen, CartPoleShapedReward, EnvFactory
from dqn_lightning.envs.state import (
    NotRestorableError,
    RestoreByReplay,
    env_state,
    load_env_state,
    load_vector_state,
    supports_state,
    vector_state,
)

SIMPLE = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "FrozenLake-v1",
]


def record_steps(envs: Any, steps: int, seed: int) -> list[Any]:
    """Return the results of random actions."""
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(steps):
        actions = rng.integers(envs.single_action_space.n, size=envs.num_envs)
        obs, *rest, _ = envs.step(actions)
        seen.append([np.array(value).tolist() for value in (obs, *rest)])
    return seen


def assert_continues_exactly(factory: EnvFactory, num_envs: int, way: Any, directory: Path) -> None:
    """Save at 60 points, including the ends of episodes, and continue in other environments."""
    first, second = (factory.make_vector(num_envs, way) for _ in range(2))
    first.reset(seed=3)
    second.reset(seed=99)
    for i in range(60):
        files.save(vector_state(first), directory / "state.pt")
        load_vector_state(second, files.load(directory / "state.pt", "it"))
        if i % 10 == 0:
            record_steps(second, 3, seed=1_000)  # into another state
            load_vector_state(second, files.load(directory / "state.pt", "it"))
        assert record_steps(first, 4, seed=i) == record_steps(second, 4, seed=i)
    first.close()
    second.close()


@pytest.mark.parametrize("env_id", SIMPLE)
def test_simple_environments_are_restored_by_their_attributes(env_id: str, tmp_path: Path) -> None:
    assert supports_state(gym.make(env_id))
    assert_continues_exactly(EnvFactory(env_id), 1, "single", tmp_path)


@pytest.mark.parametrize(
    ("num_envs", "way"), [(1, "single"), (3, "sync"), (3, "native"), (2, "async"), (1, "async")]
)
def test_vector_environments_are_restored(num_envs: int, way: Any, tmp_path: Path) -> None:
    assert_continues_exactly(EnvFactory("CartPole-v1"), num_envs, way, tmp_path)


def test_states_of_workers_do_not_pass_through_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / ("long" * 20)  # too long for the path of a socket
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)
    envs = EnvFactory("CartPole-v1").make_vector(2, "async")
    envs.reset(seed=3)
    load_vector_state(envs, vector_state(envs))
    envs.close()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "wrap",
    [
        wrappers.RecordEpisodeStatistics,
        partial(wrappers.FrameStackObservation, stack_size=3),
        wrappers.NormalizeObservation,
        wrappers.NormalizeReward,
        partial(wrappers.TimeAwareObservation, flatten=True),
        partial(wrappers.TransformReward, func=lambda reward: 2 * reward),
        CartPoleShapedReward,
    ],
)
def test_wrappers_are_restored(wrap: Any, tmp_path: Path) -> None:
    assert supports_state(wrap(gym.make("CartPole-v1")))
    assert_continues_exactly(EnvFactory("CartPole-v1", {}, [wrap]), 1, "single", tmp_path)


@pytest.mark.parametrize(
    "wrappers",
    [[CartPoleScreen, wrappers.GrayscaleObservation], [partial(CartPoleScreen, grayscale=True)]],
)
@pytest.mark.parametrize(("num_envs", "way"), [(1, "single"), (3, "sync"), (2, "async")])
def test_the_cartpole_screen_is_restored(
    wrappers: Any, num_envs: int, way: Any, tmp_path: Path
) -> None:
    factory = EnvFactory("CartPole-v1", {"render_mode": "rgb_array"}, wrappers)
    assert supports_state(factory.make())
    assert_continues_exactly(factory, num_envs, way, tmp_path)
    assert (tmp_path / "state.pt").stat().st_size < 20_000  # contains no images


def test_the_step_count_of_a_time_limit_is_restored(tmp_path: Path) -> None:
    factory = EnvFactory("Acrobot-v1", {"max_episode_steps": 5})
    assert_continues_exactly(factory, 2, "sync", tmp_path)


@pytest.mark.parametrize("way", ["single", "async"])
def test_environments_without_a_state_are_restored_by_replaying_actions(
    way: Any, tmp_path: Path
) -> None:
    assert isinstance(EnvFactory("toy/Walk-v0").make(), RestoreByReplay)
    first, second = (EnvFactory("toy/Chance-v0").make_vector(1, way) for _ in range(2))
    first.reset(seed=3)
    second.reset(seed=99)
    for i in range(40):
        files.save(vector_state(first), tmp_path / "state.pt")
        load_vector_state(second, files.load(tmp_path / "state.pt", "it"))
        assert record_steps(first, 3, seed=i) == record_steps(second, 3, seed=i)
    first.close()
    second.close()


@pytest.mark.parametrize("env_id", ["LunarLander-v3"])
def test_box2d_is_restored_by_replaying_actions(env_id: str, tmp_path: Path) -> None:
    pytest.importorskip("Box2D", reason="needs the extra box2d")
    assert_continues_exactly(EnvFactory(env_id), 2, "sync", tmp_path)


@pytest.mark.parametrize(("num_envs", "way"), [(1, "single"), (2, "sync"), (2, "async")])
def test_an_environment_that_is_not_deterministic_is_detected(num_envs: int, way: Any) -> None:
    envs = EnvFactory("toy/Fickle-v0").make_vector(num_envs, way)
    envs.reset(seed=0)
    record_steps(envs, 3, seed=0)
    with pytest.raises(NotRestorableError, match="not deterministic"):
        load_vector_state(envs, vector_state(envs))
    envs.reset()  # it can still be used
    record_steps(envs, 3, seed=0)
    envs.close()


def test_states_of_other_vectors_or_layers_are_refused() -> None:
    cartpole = EnvFactory("CartPole-v1")
    saved = cartpole.make_vector(2, "sync")
    saved.reset(seed=0)
    state = vector_state(saved)
    for other in (
        cartpole.make_vector(3, "sync"),
        cartpole.make_vector(2, "native"),
        EnvFactory("CartPole-v1", {}, [wrappers.NormalizeReward]).make_vector(2, "sync"),
    ):
        with pytest.raises(NotRestorableError):
            load_vector_state(other, state)


class Counter(gym.Env[Any, Any]):
    """A custom environment that implements `Stateful`."""

    observation_space = gym.spaces.Box(0, 1e6, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += int(action) + int(self.np_random.integers(3))
        return np.array([self.count], np.float32), 1.0, self.count > 20, False, {}

    def state_dict(self) -> Any:
        return {"count": self.count, "rng": self.np_random}

    def load_state_dict(self, state: Any) -> None:
        self.count, self.np_random = state["count"], state["rng"]


def test_a_custom_environment_is_restored_by_its_own_methods(tmp_path: Path) -> None:
    if "toy/Counter-v0" not in gym.registry:
        gym.register("toy/Counter-v0", Counter, max_episode_steps=15)
    factory = EnvFactory("toy/Counter-v0")
    first = factory.make_vector(2, "sync")
    first.reset(seed=0)
    assert not isinstance(
        first.envs[0].env, RestoreByReplay
    )  # inside the wrapper that names failed environments
    assert_continues_exactly(factory, 2, "sync", tmp_path)


@pytest.mark.parametrize(("num_envs", "way"), [(1, "single"), (2, "sync"), (2, "async")])
def test_atari_environments_with_sticky_actions_are_restored(
    num_envs: int, way: Any, tmp_path: Path
) -> None:
    pytest.importorskip("ale_py")
    env_id = "ale_py:ALE/Breakout-v5"
    factory = EnvFactory(env_id, {"obs_type": "ram", "repeat_action_probability": 0.25})
    assert_continues_exactly(factory, num_envs, way, tmp_path)


def test_a_state_sets_only_attributes_that_are_saved() -> None:
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    state = env_state(env)
    forged = {
        "spec": {"attributes": {"entry_point": {"value": "evil:call"}}},
        "step": {"attributes": {"__defaults__": {"value": 1}}},
        "__class__": {"attributes": {"forged": {"value": 1}}},
        "action_space": {"value": 1},
    }
    before = dict(vars(env))
    for layer in state:
        layer.update(forged)
    load_env_state(env, state)
    assert env.spec is not None
    assert env.spec.entry_point == gym.spec("CartPole-v1").entry_point
    assert vars(env).keys() == before.keys()
    assert not hasattr(type(env), "forged")
    assert env.action_space == gym.spaces.Discrete(2)
