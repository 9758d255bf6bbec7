from collections import Counter

import numpy as np
import torch

from dqn_lightning import DQNDataModule
from dqn_lightning.types import Observations
from dqn_lightning.visits import Visit, play_visits, sample_visits
from tests.toy import Walk


def ones(obs: Observations) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.ones(len(obs), np.int64)


def length(seed: int) -> int:
    walk = Walk()
    walk.reset(seed=seed)
    return walk.length


def test_a_state_is_seen_once_in_every_step_of_every_episode() -> None:
    collector = DQNDataModule("toy/Walk-v0").eval_collector(6, epsilon=0.0)
    seen = list(play_visits(collector, ones, episodes=6, seed=3))
    assert all(visit.obs.tolist() == [0, visit.step] for visit in seen)  # the first episode
    lengths = {env: length(3 + env) for env in range(6)}
    assert len(set(lengths.values())) > 2
    assert Counter(visit.episode for visit in seen) == lengths
    again = list(play_visits(collector, ones, episodes=6, seed=3))
    assert [visit[:2] for visit in again] == [visit[:2] for visit in seen]


def test_more_episodes_than_environments_are_played_one_after_another() -> None:
    collector = DQNDataModule("toy/Walk-v0").eval_collector(4, epsilon=0.0)
    seen = list(play_visits(collector, ones, episodes=10, seed=3))
    assert Counter(visit.episode for visit in seen) == {i: length(3 + i) for i in range(10)}
    assert all(visit.obs[1] == visit.step for visit in seen)


def test_a_visit_holds_no_more_than_its_own_observation() -> None:
    collector = DQNDataModule("toy/Walk-v0").eval_collector(6, epsilon=0.0)
    first, *_ = play_visits(collector, ones, episodes=6, seed=3)
    assert first.obs.untyped_storage().nbytes() == first.obs.nbytes


def test_observations_are_stacked_as_in_training() -> None:
    data = DQNDataModule("toy/Walk-v0", frame_stack=2)
    seen = play_visits(data.eval_collector(6, epsilon=0.0), ones, episodes=6, seed=3)
    stacks = {visit.step: visit.obs.tolist() for visit in seen}
    assert stacks[0] == [0, 0, 0, 0]
    assert stacks[2] == [0, 1, 0, 2]


def test_each_state_is_drawn_with_the_same_chance() -> None:
    states = [Visit(i % 2, i, torch.tensor(i)) for i in range(10)]
    rng = np.random.default_rng(0)
    draws = [sample_visits(iter(states), 3, rng) for _ in range(3_000)]
    counts = Counter(visit.step for drawn in draws for visit in drawn)
    # Of 3 000 draws each state is in 900, with a standard deviation of 25.
    assert sorted(counts) == list(range(10))
    assert all(abs(count - 900) < 100 for count in counts.values())
    assert all(drawn == sorted(drawn, key=lambda visit: visit[:2]) for drawn in draws)
    assert sample_visits(iter(states), 20, rng) == [*states[::2], *states[1::2]]
