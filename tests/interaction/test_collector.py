from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from dqn_lightning.envs import EnvFactory, Vectorization
from dqn_lightning.errors import EnvironmentFailure
from dqn_lightning.interaction.actor import EpsilonGreedy
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.replay import ReplayBuffer
from dqn_lightning.schedules import Constant


def by_position(obs: np.ndarray) -> np.ndarray:
    """Return actions that depend on the observation only, not on the order of environments."""
    return (obs.sum(1, np.float64) * 1e3).astype(np.int64) % 2


def collect(envs: Any, steps: int, seed: int = 7, epsilon: float = 0.0) -> Collector:
    shape = envs.single_observation_space.shape
    replay = ReplayBuffer(10_000, envs.num_envs, shape, torch.float32)
    actor = EpsilonGreedy(Constant(epsilon), 2, np.random.default_rng(0))
    collector = Collector(envs, replay, actor)
    collector.reset(seed)
    for _ in range(steps):
        collector.step(by_position)
    return collector


def transitions(collector: Collector) -> Counter[tuple[Any, ...]]:
    replay = collector.replay
    rows = np.array(replay.rows)
    batch = replay.gather(rows[replay.samplable(rows)])
    columns = (batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs)
    return Counter(
        tuple(x if isinstance(x, (int, float)) else tuple(x) for x in row)
        for row in zip(*(column.tolist() for column in columns), strict=True)
    )


def test_sync_and_async_store_the_same_transitions_as_single_environments() -> None:
    factory = EnvFactory("CartPole-v1")
    sync = transitions(collect(factory.make_vector(3, "sync"), 150))
    asynchronous = collect(factory.make_vector(3, "async"), 150)
    singles: Counter[tuple[Any, ...]] = Counter()
    for i in range(3):
        singles += transitions(collect(factory.make_vector(1, "single"), 150, seed=7 + i))
    assert sync.total() > 400
    assert sync == transitions(asynchronous) == singles
    asynchronous.envs.close()


class StartsFromSeveralGenerators:
    """Generator for CartPole's native vector that starts episodes as separate environments do."""

    def __init__(self, envs: Any, seed: int) -> None:
        self.envs = envs
        self.generators = [np.random.default_rng(seed + i) for i in range(envs.num_envs)]

    def uniform(self, low: float, high: float, size: tuple[int, int]) -> np.ndarray:
        ended = self.envs.prev_done if size[1] < len(self.generators) else [True] * size[1]
        if not any(ended):
            return np.empty(size)
        starts = [g.uniform(low, high, 4) for g, e in zip(self.generators, ended, strict=True) if e]
        return np.stack(starts, axis=1)


def test_a_native_vector_stores_the_same_transitions() -> None:
    def column(counter: Counter[tuple[Any, ...]]) -> np.ndarray:
        rows = [[*obs, a, r, d, *nxt] for obs, a, r, d, nxt in counter.elements()]
        return np.array(sorted(np.round(rows, 4).tolist()))

    factory = EnvFactory("CartPole-v1")
    native = factory.make_vector(3, "native")
    native.unwrapped.np_random = StartsFromSeveralGenerators(native.unwrapped, 7)
    native.reset = lambda seed: type(native).reset(native)  # keeps the generators
    ours = column(transitions(collect(native, 150)))
    reference = column(transitions(collect(factory.make_vector(3, "sync"), 150)))
    # arrays and scalars of float64 differ in the last bit, so values may round differently
    np.testing.assert_allclose(ours, reference, atol=2e-4)


@pytest.mark.parametrize("vectorization", ["single", "sync", "async", "native"])
def test_reset_rows_are_not_counted_as_environment_steps(vectorization: Vectorization) -> None:
    num_envs = 1 if vectorization == "single" else 2
    collector = collect(EnvFactory("CartPole-v1").make_vector(num_envs, vectorization), 200)
    rows = np.array(collector.replay.rows)
    num_reset_rows = int((~collector.replay.samplable(rows)).sum())
    assert num_reset_rows > 0
    assert collector.progress.env_steps == 200 * num_envs - num_reset_rows
    collector.envs.close()


def test_episodes_are_returned_with_their_return_length_and_environment_step() -> None:
    envs = EnvFactory("toy/Walk-v0").make_vector(2, "sync")
    replay = ReplayBuffer(1_000, 2, (2,), torch.float32)
    collector = Collector(envs, replay, EpsilonGreedy(Constant(0), 3, np.random.default_rng(0)))
    collector.reset(0)
    episodes = []
    for _ in range(50):
        episodes += collector.step(lambda obs: torch.full((2,), 2))
    assert len(episodes) == collector.progress.episodes > 10
    for episode in episodes:
        steps = np.arange(1, episode.length + 1)
        assert episode.episode_return == pytest.approx((2 + steps / 10).sum())
    times = [episode.env_steps for episode in episodes]
    assert times == sorted(times)
    assert {episode.env for episode in episodes} == {0, 1}


def test_the_policy_is_not_called_if_all_environments_reset() -> None:
    steps_of_calls = []

    def policy(obs: np.ndarray) -> np.ndarray:
        steps_of_calls.append(obs[0, 1].item())  # step of the episode
        return np.zeros(1, np.int64)

    envs = EnvFactory("toy/Walk-v0").make_vector(1)
    replay = ReplayBuffer(1_000, 1, (2,), torch.float32)
    collector = Collector(envs, replay, EpsilonGreedy(Constant(0), 3, np.random.default_rng(0)))
    collector.reset(0)
    for _ in range(60):
        collector.step(policy)
    assert len(steps_of_calls) == collector.progress.env_steps < 60


@pytest.mark.parametrize("vectorization", ["single", "sync", "async"])
def test_the_error_of_an_environment_names_it_and_the_environment_step(
    vectorization: Vectorization,
) -> None:
    num_envs = 1 if vectorization == "single" else 2
    envs = EnvFactory("toy/Walk-v0", {"fail_at": 5}).make_vector(num_envs, vectorization)
    replay = ReplayBuffer(1_000, num_envs, (2,), torch.float32)
    collector = Collector(envs, replay, EpsilonGreedy(Constant(1), 3, np.random.default_rng(0)))
    collector.reset(0)
    with pytest.raises(EnvironmentFailure, match=r"environment 0 raised ZeroDivisionError") as info:
        step_until_failure(collector)
    if vectorization == "async":  # only the text of a traceback leaves a subprocess
        assert "ZeroDivisionError: the floor gave way" in str(info.value.__cause__)
    else:
        assert isinstance(info.value.__cause__, ZeroDivisionError)
    assert f"after environment step {collector.progress.env_steps}" in str(info.value)


@pytest.mark.parametrize("vectorization", ["single", "sync", "async"])
def test_an_invalid_observation_is_reported_with_its_environment_and_environment_step(
    vectorization: Vectorization,
) -> None:
    num_envs = 1 if vectorization == "single" else 2
    envs = EnvFactory("toy/Faulty-v0", {"fault": "shape"}).make_vector(num_envs, vectorization)
    replay = ReplayBuffer(1_000, num_envs, (2,), torch.float32)
    collector = Collector(envs, replay, EpsilonGreedy(Constant(1), 3, np.random.default_rng(0)))
    collector.reset(0)
    with pytest.raises(EnvironmentFailure, match=r"environment 0 returned .*shape") as info:
        step_until_failure(collector)
    assert info.value.__cause__ is None
    assert f"after environment step {collector.progress.env_steps}" in str(info.value)
    envs.close()


def step_until_failure(collector: Collector) -> None:
    for _ in range(20):
        collector.step(lambda obs: obs[:, 0].long())


def test_every_environment_explores_independently() -> None:
    actor = EpsilonGreedy(Constant(0.5), 2, np.random.default_rng(0))
    greedy = torch.full((1_000,), 7)
    actions = actor(lambda obs: greedy, torch.zeros(1_000, 1), env_steps=0)
    assert 420 < (actions == 7).sum() < 580
    assert set(actions.tolist()) == {0, 1, 7}


def test_epsilon_follows_its_schedule() -> None:
    actor = EpsilonGreedy(lambda count: float(count < 10), 2, np.random.default_rng(0))
    greedy = torch.full((100,), 7)
    assert (actor(lambda obs: greedy, torch.zeros(100, 1), env_steps=9) < 7).all()
    assert (actor(lambda obs: greedy, torch.zeros(100, 1), env_steps=10) == 7).all()


@pytest.mark.parametrize(
    ("clip", "scale", "stored"),
    [
        (None, 1.0, lambda r: r),
        (1.5, 1.0, lambda r: min(r, 1.5)),
        (1.5, 2.0, lambda r: 2 * min(r, 1.5)),
        (None, 0.1, lambda r: 0.1 * r),
    ],
)
def test_stored_rewards_are_clipped_then_scaled_but_returns_are_neither(
    clip: float | None, scale: float, stored: Any
) -> None:
    envs = EnvFactory("toy/Walk-v0").make_vector(2, "sync")
    replay = ReplayBuffer(1_000, 2, (2,), torch.float32)
    actor = EpsilonGreedy(Constant(0), 3, np.random.default_rng(0))
    collector = Collector(envs, replay, actor, reward_clip=clip, reward_scale=scale)
    collector.reset(0)
    episodes = []
    for _ in range(40):  # the reward is 1 + step / 10
        episodes += collector.step(lambda obs: np.ones(2, np.int64))
    for episode in episodes:
        steps = np.arange(1, episode.length + 1)
        assert episode.episode_return == pytest.approx((1 + steps / 10).sum())
    rows = np.array(replay.rows)
    batch = replay.gather(rows[replay.samplable(rows)])
    reward = 1 + batch.next_obs[:, 1] / 10
    assert reward.max() > 1.5
    assert batch.reward.tolist() == pytest.approx([stored(r) for r in reward.tolist()])


def test_negative_rewards_are_clipped_too() -> None:
    class Negative(gym.RewardWrapper):
        def reward(self, reward: Any) -> Any:
            return -10 * reward

    envs = EnvFactory("toy/Walk-v0", wrappers=[Negative]).make_vector(1)
    replay = ReplayBuffer(1_000, 1, (2,), torch.float32)
    actor = EpsilonGreedy(Constant(0), 3, np.random.default_rng(0))
    collector = Collector(envs, replay, actor, reward_clip=1.0)
    collector.reset(0)
    for _ in range(10):
        collector.step(lambda obs: np.ones(1, np.int64))
    rows = np.array(replay.rows)
    assert set(replay.gather(rows[replay.samplable(rows)]).reward.tolist()) == {-1.0}
