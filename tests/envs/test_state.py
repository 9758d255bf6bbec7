"""Environments that go on from a saved state as if they had never stopped."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers

from dqn_lightning import files
from dqn_lightning.envs import CartPoleScreen, CartPoleShapedReward, EnvFactory
from dqn_lightning.envs.state import (
    CannotRestoreError,
    Retraced,
    can_give_state,
    load_vector_state,
    vector_state,
)

SIMPLE = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "FrozenLake-v1",
]


def tape(envs: Any, steps: int, seed: int) -> list[Any]:
    """What random actions lead to."""
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(steps):
        actions = rng.integers(envs.single_action_space.n, size=envs.num_envs)
        obs, *rest, _ = envs.step(actions)
        seen.append([np.array(value).tolist() for value in (obs, *rest)])
    return seen


def assert_goes_on(factory: EnvFactory, num_envs: int, way: Any, folder: Path) -> None:
    """Stop at a hundred places, an episode's end among them, and go on in new environments."""
    first, second = (factory.make_vector(num_envs, way) for _ in range(2))
    first.reset(seed=3)
    second.reset(seed=99)
    for i in range(60):
        files.save(vector_state(first), folder, "state.pt")
        load_vector_state(second, files.load(folder / "state.pt", "it"))
        if i % 10 == 0:
            tape(second, 3, seed=1_000)  # wherever it was
            load_vector_state(second, files.load(folder / "state.pt", "it"))
        assert tape(first, 4, seed=i) == tape(second, 4, seed=i)
    first.close()
    second.close()


@pytest.mark.parametrize("env_id", SIMPLE)
def test_simple_environments_by_their_attributes(env_id: str, tmp_path: Path) -> None:
    assert can_give_state(gym.make(env_id))
    assert_goes_on(EnvFactory(env_id), 1, "single", tmp_path)


@pytest.mark.parametrize(
    ("num_envs", "way"), [(1, "single"), (3, "sync"), (3, "native"), (2, "async"), (1, "async")]
)
def test_vectors(num_envs: int, way: Any, tmp_path: Path) -> None:
    assert_goes_on(EnvFactory("CartPole-v1"), num_envs, way, tmp_path)


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
def test_wrappers(wrap: Any, tmp_path: Path) -> None:
    assert can_give_state(wrap(gym.make("CartPole-v1")))
    assert_goes_on(EnvFactory("CartPole-v1", {}, [wrap]), 1, "single", tmp_path)


@pytest.mark.parametrize(
    "wrappers",
    [[CartPoleScreen, wrappers.GrayscaleObservation], [partial(CartPoleScreen, grey=True)]],
)
@pytest.mark.parametrize(("num_envs", "way"), [(1, "single"), (3, "sync"), (2, "async")])
def test_the_screen(wrappers: Any, num_envs: int, way: Any, tmp_path: Path) -> None:
    factory = EnvFactory("CartPole-v1", {"render_mode": "rgb_array"}, wrappers)
    assert can_give_state(factory.make())
    assert_goes_on(factory, num_envs, way, tmp_path)
    assert (tmp_path / "state.pt").stat().st_size < 20_000  # no pictures are in it


def test_a_time_limit_goes_on_counting(tmp_path: Path) -> None:
    factory = EnvFactory("Acrobot-v1", {"max_episode_steps": 5})
    assert_goes_on(factory, 2, "sync", tmp_path)


@pytest.mark.parametrize("way", ["single", "async"])
def test_an_episode_is_played_again_where_a_state_cannot_be_had(way: Any, tmp_path: Path) -> None:
    assert isinstance(EnvFactory("toy/Walk-v0").make(), Retraced)
    first, second = (EnvFactory("toy/Chance-v0").make_vector(1, way) for _ in range(2))
    first.reset(seed=3)
    second.reset(seed=99)
    for i in range(40):
        files.save(vector_state(first), tmp_path, "state.pt")
        load_vector_state(second, files.load(tmp_path / "state.pt", "it"))
        assert tape(first, 3, seed=i) == tape(second, 3, seed=i)
    first.close()
    second.close()


@pytest.mark.parametrize("env_id", ["LunarLander-v3"])
def test_box2d_is_played_again(env_id: str, tmp_path: Path) -> None:
    pytest.importorskip("Box2D", reason="needs the extra box2d")
    assert_goes_on(EnvFactory(env_id), 2, "sync", tmp_path)


@pytest.mark.parametrize(("num_envs", "way"), [(1, "single"), (2, "sync"), (2, "async")])
def test_an_environment_that_is_not_deterministic_is_found_out(num_envs: int, way: Any) -> None:
    envs = EnvFactory("toy/Fickle-v0").make_vector(num_envs, way)
    envs.reset(seed=0)
    tape(envs, 3, seed=0)
    with pytest.raises(CannotRestoreError, match="is not deterministic"):
        load_vector_state(envs, vector_state(envs))
    envs.reset()  # and it can still be used
    tape(envs, 3, seed=0)
    envs.close()


def test_other_vectors_and_layers_are_refused() -> None:
    cartpole = EnvFactory("CartPole-v1")
    saved = cartpole.make_vector(2, "sync")
    saved.reset(seed=0)
    state = vector_state(saved)
    for other in (
        cartpole.make_vector(3, "sync"),
        cartpole.make_vector(2, "native"),
        EnvFactory("CartPole-v1", {}, [wrappers.NormalizeReward]).make_vector(2, "sync"),
    ):
        with pytest.raises(CannotRestoreError):
            load_vector_state(other, state)


class Counter(gym.Env[Any, Any]):
    """A user's environment with the two methods."""

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


def test_a_users_environment_takes_part_with_two_methods(tmp_path: Path) -> None:
    if "toy/Counter-v0" not in gym.registry:
        gym.register("toy/Counter-v0", Counter, max_episode_steps=15)
    factory = EnvFactory("toy/Counter-v0")
    first = factory.make_vector(2, "sync")
    first.reset(seed=0)
    assert not isinstance(first.envs[0].env, Retraced)  # inside what gives it its number
    assert_goes_on(factory, 2, "sync", tmp_path)


@pytest.mark.parametrize(("num_envs", "way"), [(1, "single"), (2, "sync"), (2, "async")])
def test_arcade_environments_with_sticky_actions(num_envs: int, way: Any, tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    env_id = "ale_py:ALE/Breakout-v5"
    factory = EnvFactory(env_id, {"obs_type": "ram", "repeat_action_probability": 0.25})
    assert_goes_on(factory, num_envs, way, tmp_path)
