from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from dqn_lightning.actor import EpsilonGreedy
from dqn_lightning.collector import Collector
from dqn_lightning.envs import EnvFactory, Vectorization
from dqn_lightning.errors import EnvironmentFailure
from dqn_lightning.replay import ReplayBuffer
from dqn_lightning.schedules import Constant


def by_position(obs: np.ndarray) -> np.ndarray:
    """Actions that depend on the observation alone, so the order of environments cannot matter."""
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
    batch = replay.gather(rows[replay.drawable(rows)])
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
    """Gives CartPole's own vector version the starts that separate environments would have."""

    def __init__(self, envs: Any, seed: int) -> None:
        self.envs = envs
        self.generators = [np.random.default_rng(seed + i) for i in range(envs.num_envs)]

    def uniform(self, low: float, high: float, size: tuple[int, int]) -> np.ndarray:
        ended = self.envs.prev_done if size[1] < len(self.generators) else [True] * size[1]
        if not any(ended):
            return np.empty(size)
        starts = [g.uniform(low, high, 4) for g, e in zip(self.generators, ended, strict=True) if e]
        return np.stack(starts, axis=1)


def test_the_environments_own_vector_version_stores_the_same_transitions() -> None:
    def column(counter: Counter[tuple[Any, ...]]) -> np.ndarray:
        rows = [[*obs, a, r, d, *nxt] for obs, a, r, d, nxt in counter.elements()]
        return np.array(sorted(np.round(rows, 4).tolist()))

    factory = EnvFactory("CartPole-v1")
    native = factory.make_vector(3, "native")
    native.unwrapped.np_random = StartsFromSeveralGenerators(native.unwrapped, 7)
    native.reset = lambda seed: type(native).reset(native)  # keeps those generators
    ours = column(transitions(collect(native, 150)))
    reference = column(transitions(collect(factory.make_vector(3, "sync"), 150)))
    # float64 arrays and scalars differ in their last bit, which rounding may show
    np.testing.assert_allclose(ours, reference, atol=2e-4)


@pytest.mark.parametrize("vectorization", ["single", "sync", "async", "native"])
def test_boundary_rows_are_no_environment_steps(vectorization: Vectorization) -> None:
    num_envs = 1 if vectorization == "single" else 2
    collector = collect(EnvFactory("CartPole-v1").make_vector(num_envs, vectorization), 200)
    rows = np.array(collector.replay.rows)
    boundaries = int((~collector.replay.drawable(rows)).sum())
    assert boundaries > 0
    assert collector.counts.env_steps == 200 * num_envs - boundaries
    collector.envs.close()


def test_episodes_are_handed_out_with_their_returns_durations_and_time() -> None:
    envs = EnvFactory("toy/Walk-v0").make_vector(2, "sync")
    replay = ReplayBuffer(1_000, 2, (2,), torch.float32)
    collector = Collector(envs, replay, EpsilonGreedy(Constant(0), 3, np.random.default_rng(0)))
    collector.reset(0)
    episodes = []
    for _ in range(50):
        episodes += collector.step(lambda obs: torch.full((2,), 2))
    assert len(episodes) == collector.counts.episodes > 10
    for episode in episodes:
        steps = np.arange(1, episode.duration + 1)
        assert episode.episode_return == pytest.approx((2 + steps / 10).sum())
    times = [episode.env_steps for episode in episodes]
    assert times == sorted(times)
    assert {episode.env for episode in episodes} == {0, 1}


def test_the_actor_is_not_asked_where_all_environments_reset() -> None:
    asked = []

    def act(obs: np.ndarray) -> np.ndarray:
        asked.append(obs[0, 1].item())  # the step in the episode
        return np.zeros(1, np.int64)

    envs = EnvFactory("toy/Walk-v0").make_vector(1)
    replay = ReplayBuffer(1_000, 1, (2,), torch.float32)
    collector = Collector(envs, replay, EpsilonGreedy(Constant(0), 3, np.random.default_rng(0)))
    collector.reset(0)
    for _ in range(60):
        collector.step(act)
    assert len(asked) == collector.counts.env_steps < 60


@pytest.mark.parametrize("vectorization", ["single", "sync", "async"])
def test_an_environment_that_raises_is_named_with_its_step(vectorization: Vectorization) -> None:
    num_envs = 1 if vectorization == "single" else 2
    envs = EnvFactory("toy/Walk-v0", {"fail_at": 5}).make_vector(num_envs, vectorization)
    replay = ReplayBuffer(1_000, num_envs, (2,), torch.float32)
    collector = Collector(envs, replay, EpsilonGreedy(Constant(1), 3, np.random.default_rng(0)))
    collector.reset(0)
    with pytest.raises(EnvironmentFailure, match=r"environment 0 raised ZeroDivisionError") as info:
        step_until_it_fails(collector)
    if vectorization != "async":  # a worker's exception stays there, its words come out
        assert isinstance(info.value.__cause__, ZeroDivisionError)
    assert f"after environment step {collector.counts.env_steps}" in str(info.value)


def step_until_it_fails(collector: Collector) -> None:
    for _ in range(20):
        collector.step(lambda obs: obs[:, 0].long())


def test_every_environment_flips_its_own_coin() -> None:
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
    ("clip", "scale", "learnt"),
    [
        (None, 1.0, lambda r: r),
        (1.5, 1.0, lambda r: min(r, 1.5)),
        (1.5, 2.0, lambda r: 2 * min(r, 1.5)),
        (None, 0.1, lambda r: 0.1 * r),
    ],
)
def test_rewards_are_learnt_from_as_clipped_then_scaled_and_returns_are_true(
    clip: float | None, scale: float, learnt: Any
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
        steps = np.arange(1, episode.duration + 1)
        assert episode.episode_return == pytest.approx((1 + steps / 10).sum())
    rows = np.array(replay.rows)
    batch = replay.gather(rows[replay.drawable(rows)])
    true = 1 + batch.next_obs[:, 1] / 10
    assert true.max() > 1.5
    assert batch.reward.tolist() == pytest.approx([learnt(r) for r in true.tolist()])


def test_punishments_are_clipped_too() -> None:
    class Punished(gym.RewardWrapper):
        def reward(self, reward: Any) -> Any:
            return -10 * reward

    envs = EnvFactory("toy/Walk-v0", wrappers=[Punished]).make_vector(1)
    replay = ReplayBuffer(1_000, 1, (2,), torch.float32)
    actor = EpsilonGreedy(Constant(0), 3, np.random.default_rng(0))
    collector = Collector(envs, replay, actor, reward_clip=1.0)
    collector.reset(0)
    for _ in range(10):
        collector.step(lambda obs: np.ones(1, np.int64))
    rows = np.array(replay.rows)
    assert set(replay.gather(rows[replay.drawable(rows)]).reward.tolist()) == {-1.0}
