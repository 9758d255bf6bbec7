from collections import Counter

import numpy as np
import torch

from dqn_lightning import DQNDataModule
from dqn_lightning.types import Observations
from dqn_lightning.visits import Visit, draw_visits, visits
from tests.toy import Walk


def ones(obs: Observations) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.ones(len(obs), np.int64)


def length(seed: int) -> int:
    walk = Walk()
    walk.reset(seed=seed)
    return walk.length


def test_a_state_is_seen_once_in_every_step_of_every_episode() -> None:
    collector = DQNDataModule("toy/Walk-v0").eval_collector(6, epsilon=0.0)
    seen = list(visits(collector, ones, seed=3))
    assert all(visit.obs.tolist() == [0, visit.step] for visit in seen)  # the first episode
    lengths = {env: length(3 + env) for env in range(6)}
    assert len(set(lengths.values())) > 2
    assert Counter(visit.episode for visit in seen) == lengths
    again = list(visits(collector, ones, seed=3))
    assert [visit[:2] for visit in again] == [visit[:2] for visit in seen]


def test_observations_are_stacked_as_in_training() -> None:
    data = DQNDataModule("toy/Walk-v0", frame_stack=2)
    seen = visits(data.eval_collector(6, epsilon=0.0), ones, seed=3)
    stacks = {visit.step: visit.obs.tolist() for visit in seen}
    assert stacks[0] == [0, 0, 0, 0]
    assert stacks[2] == [0, 1, 0, 2]


def test_each_state_is_drawn_with_the_same_chance() -> None:
    states = [Visit(i % 2, i, torch.tensor(i)) for i in range(10)]
    rng = np.random.default_rng(0)
    draws = [draw_visits(iter(states), 3, rng) for _ in range(3_000)]
    counts = Counter(visit.step for drawn in draws for visit in drawn)
    # Of 3 000 draws each state is in 900, with a standard deviation of 25.
    assert sorted(counts) == list(range(10))
    assert all(abs(count - 900) < 100 for count in counts.values())
    assert all(drawn == sorted(drawn, key=lambda visit: visit[:2]) for drawn in draws)
    assert draw_visits(iter(states), 20, rng) == [*states[::2], *states[1::2]]
