from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning.actor import EpsilonGreedy
from dqn_lightning.collector import Collector
from dqn_lightning.dataset import ReplayDataset, Rhythm
from dqn_lightning.envs import EnvFactory
from dqn_lightning.replay import Prioritized, ReplayBuffer, Sampler
from dqn_lightning.schedules import Constant, Schedule


def zeros(obs: Tensor) -> Tensor:
    return torch.zeros(len(obs), dtype=torch.int64)


def make_dataset(
    rhythm: Rhythm,
    num_envs: int = 1,
    sampler: Sampler | None = None,
    n_step: int | Schedule = 1,
) -> ReplayDataset:
    envs = EnvFactory("toy/Walk-v0").make_vector(num_envs, "sync")
    replay = ReplayBuffer(1_000, num_envs, (2,), torch.float32, sampler=sampler, n_step=n_step)
    actor = EpsilonGreedy(Constant(0.0), 3, np.random.default_rng(0))
    collector = Collector(envs, replay, actor)
    collector.reset(0)
    return ReplayDataset(collector, rhythm)


def updates(dataset: ReplayDataset) -> list[int]:
    """Environment steps at which each update came."""
    collector = dataset.collector
    return [collector.counts.env_steps for rollout in dataset for _ in rollout(zeros)]


def test_updates_come_at_their_multiples_after_learning_starts() -> None:
    rhythm = Rhythm(4, 10, train_every_env_steps=4, updates_per_train=2, total_env_steps=24)
    assert updates(make_dataset(rhythm)) == [12, 12, 16, 16, 20, 20, 24, 24]


def test_a_vector_step_that_passes_several_multiples_brings_their_updates() -> None:
    rhythm = Rhythm(4, 6, train_every_env_steps=2, total_env_steps=12)
    at = updates(make_dataset(rhythm, num_envs=4))
    assert len(at) == 4  # those due at 6, 8, 10 and 12
    assert at[0] >= 6
    assert at[-1] >= 12


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("rollout_env_steps", [7, 64, 1_000])
def test_updates_do_not_depend_on_the_length_of_rollouts(
    num_envs: int, rollout_env_steps: int
) -> None:
    def rows(rollout_env_steps: int) -> list[Any]:
        rhythm = Rhythm(4, 11, 3, 2, rollout_env_steps, 50, total_env_steps=200)
        dataset = make_dataset(rhythm, num_envs)
        counts = dataset.collector
        return [
            (counts.counts, batch.row.tolist()) for rollout in dataset for batch in rollout(zeros)
        ]

    assert rows(rollout_env_steps) == rows(1)


def test_rollouts_end_at_multiples_evaluations_and_the_runs_end() -> None:
    rhythm = Rhythm(4, 10, rollout_env_steps=10, eval_every_env_steps=25, total_env_steps=52)
    dataset = make_dataset(rhythm)
    ends, due = [], []
    for rollout in dataset:
        drain(rollout(zeros))
        ends.append(dataset.boundary)
        due.append(rollout.evaluation_due)
    assert ends == [10, 20, 25, 30, 40, 50, 52]
    assert due == [False, False, True, False, False, True, False]


def test_the_number_of_updates_in_a_rollout_is_fixed_by_its_place() -> None:
    """Whatever environment steps a vector step brings: processes must never differ in it."""
    rhythm = Rhythm(4, 20, train_every_env_steps=3, rollout_env_steps=10, total_env_steps=60)
    numbers = []
    for num_envs in (1, 2, 5):
        dataset = make_dataset(rhythm, num_envs)
        numbers.append([sum(1 for _ in rollout(zeros)) for rollout in dataset])
    assert numbers[0] == numbers[1] == numbers[2]


def test_a_run_ends_after_its_episodes_and_their_last_updates() -> None:
    dataset = make_dataset(Rhythm(1, 1, total_episodes=5))
    at = updates(dataset)
    assert dataset.collector.counts.episodes == 5
    assert at[-1] == dataset.collector.counts.env_steps


def test_a_longer_run_continues_a_finished_one() -> None:
    whole = updates(make_dataset(Rhythm(4, 10, total_env_steps=80)))
    dataset = make_dataset(Rhythm(4, 10, total_env_steps=40))
    first = updates(dataset)
    assert updates(dataset) == []
    dataset.rhythm = Rhythm(4, 10, total_env_steps=80)
    assert first + updates(dataset) == whole


def test_a_stopped_run_can_be_picked_up_where_it_stopped() -> None:
    whole = updates(make_dataset(Rhythm(4, 10, total_env_steps=80)))
    dataset = make_dataset(Rhythm(4, 10, total_env_steps=80))
    first = []
    for rollout in dataset:
        for _ in rollout(zeros):
            first.append(dataset.collector.counts.env_steps)
            if len(first) == 17:
                dataset.stopped = lambda: True
        assert not rollout.complete
    assert len(first) == 17
    dataset.stopped = lambda: False
    assert first + updates(dataset) == whole


def test_iterating_does_nothing_before_the_first_rollout_is_called() -> None:
    dataset = make_dataset(Rhythm(4, 10, total_env_steps=80))
    next(iter(dataset))
    assert dataset.collector.counts.env_steps == 0


def test_neither_a_rollout_nor_its_length_can_be_run_through_by_accident() -> None:
    dataset = make_dataset(Rhythm(4, 10, total_env_steps=80))
    assert not isinstance(next(iter(dataset)), Iterable)
    assert len(dataset) == 2**31 - 1


def test_the_end_is_told_once_rollouts_are_over() -> None:
    told = []
    dataset = make_dataset(Rhythm(4, 10, total_env_steps=20))
    dataset.on_end = lambda: told.append(dataset.collector.counts.env_steps)
    updates(dataset)
    assert told == [20]


def test_priorities_go_back_to_the_replay_and_only_if_it_has_some() -> None:
    rhythm = Rhythm(4, 20, total_env_steps=60)
    assert not next(iter(make_dataset(rhythm))).has_priorities
    dataset = make_dataset(rhythm, sampler=Prioritized(alpha=1.0))
    for rollout in dataset:
        assert rollout.has_priorities
        for batch in rollout(zeros):
            # Rows of even number are all that there is to learn from.
            rollout.set_priorities(batch.row, (batch.row % 2 == 0).double())
    drawn = dataset.collector.replay.draw(500).row
    known = drawn[drawn < 40]  # the newest may not have been drawn yet
    assert len(known) > 100
    assert (known % 2 == 0).double().mean() > 0.9


def test_schedules_of_the_replay_see_the_count_at_which_the_update_was_due() -> None:
    beta, n_step = Recorder(), Recorder()
    rhythm = Rhythm(4, 6, train_every_env_steps=2, total_env_steps=12)
    dataset = make_dataset(rhythm, 4, Prioritized(beta=beta), n_step)
    beta.seen, n_step.seen = [], []
    updates(dataset)
    assert beta.seen == n_step.seen == [6, 8, 10, 12]


class Recorder:
    """A schedule that remembers what it was asked; always 1."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, count: int) -> float:
        self.seen.append(count)
        return 1.0


def drain(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass
