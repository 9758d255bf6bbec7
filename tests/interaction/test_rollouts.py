"""The stream of rollouts and batches, and when everything is due."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning.envs import EnvFactory
from dqn_lightning.interaction.actor import EpsilonGreedy
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.interaction.rollouts import ReplayDataset, TrainingSchedule
from dqn_lightning.replay import Prioritized, ReplayBuffer, Sampler
from dqn_lightning.schedules import Constant, Schedule


def zeros(obs: Tensor) -> Tensor:
    return torch.zeros(len(obs), dtype=torch.int64)


def make_dataset(
    schedule: TrainingSchedule,
    num_envs: int = 1,
    sampler: Sampler | None = None,
    n_step: int | Schedule = 1,
    batch_size: int = 4,
) -> ReplayDataset:
    envs = EnvFactory("toy/Walk-v0").make_vector(num_envs, "sync")
    replay = ReplayBuffer(1_000, num_envs, (2,), torch.float32, sampler=sampler, n_step=n_step)
    actor = EpsilonGreedy(Constant(0.0), 3, np.random.default_rng(0))
    collector = Collector(envs, replay, actor)
    collector.reset(0)
    return ReplayDataset(collector, schedule, batch_size)


def updates(dataset: ReplayDataset) -> list[int]:
    """Return the environment steps after which each update was made."""
    collector = dataset.collector
    return [collector.progress.env_steps for rollout in dataset for _ in rollout(zeros)]


def test_updates_are_due_at_multiples_once_learning_has_started() -> None:
    schedule = TrainingSchedule(10, update_period=4, updates_per_period=2, total_env_steps=24)
    assert updates(make_dataset(schedule)) == [12, 12, 16, 16, 20, 20, 24, 24]


def test_a_vector_step_that_passes_several_multiples_is_followed_by_all_their_updates() -> None:
    schedule = TrainingSchedule(6, update_period=2, total_env_steps=12)
    at = updates(make_dataset(schedule, num_envs=4))
    assert len(at) == 4  # those due at 6, 8, 10 and 12
    assert at[0] >= 6
    assert at[-1] >= 12


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("rollout_env_steps", [7, 64, 1_000])
def test_updates_do_not_depend_on_the_length_of_rollouts(
    num_envs: int, rollout_env_steps: int
) -> None:
    def rows(rollout_env_steps: int) -> list[Any]:
        schedule = TrainingSchedule(11, 3, 2, rollout_env_steps, 50, total_env_steps=200)
        dataset = make_dataset(schedule, num_envs)
        return [
            (dataset.progress.clock, batch.row.tolist())
            for rollout in dataset
            for batch in rollout(zeros)
        ]

    assert rows(rollout_env_steps) == rows(1)


def test_rollouts_end_at_multiples_at_evaluations_and_at_the_end_of_the_run() -> None:
    schedule = TrainingSchedule(10, rollout_period=10, evaluation_period=25, total_env_steps=52)
    dataset = make_dataset(schedule)
    ends, due = [], []
    for rollout in dataset:
        drain(rollout(zeros))
        ends.append(dataset.progress.rollout_end)
        due.append(rollout.evaluation_due)
    assert ends == [10, 20, 25, 30, 40, 50, 52]
    assert due == [False, False, True, False, False, True, False]


def test_the_number_of_updates_in_a_rollout_follows_from_its_position_in_the_run() -> None:
    """Ranks must agree on it, however many environments they step at once."""
    schedule = TrainingSchedule(20, update_period=3, rollout_period=10, total_env_steps=60)
    numbers = []
    for num_envs in (1, 2, 5):
        dataset = make_dataset(schedule, num_envs)
        numbers.append([sum(1 for _ in rollout(zeros)) for rollout in dataset])
    assert numbers[0] == numbers[1] == numbers[2]


def test_a_run_ends_with_its_last_episode_after_the_updates_that_are_due() -> None:
    dataset = make_dataset(TrainingSchedule(1, total_episodes=5), batch_size=1)
    at = updates(dataset)
    assert dataset.collector.progress.episodes == 5
    assert at[-1] == dataset.collector.progress.env_steps


def test_a_longer_run_continues_a_finished_one() -> None:
    uninterrupted = updates(make_dataset(TrainingSchedule(10, total_env_steps=80)))
    dataset = make_dataset(TrainingSchedule(10, total_env_steps=40))
    first = updates(dataset)
    assert updates(dataset) == []
    dataset.schedule = TrainingSchedule(10, total_env_steps=80)
    assert first + updates(dataset) == uninterrupted


def test_a_stopped_run_continues_where_it_stopped() -> None:
    uninterrupted = updates(make_dataset(TrainingSchedule(10, total_env_steps=80)))
    dataset = make_dataset(TrainingSchedule(10, total_env_steps=80))
    first = []
    for rollout in dataset:
        for _ in rollout(zeros):
            first.append(dataset.collector.progress.env_steps)
            if len(first) == 17:
                dataset.stop_requested = lambda: True
        assert not rollout.complete
    assert len(first) == 17
    dataset.stop_requested = lambda: False
    assert first + updates(dataset) == uninterrupted


def test_iterating_does_nothing_before_the_first_rollout_is_called() -> None:
    dataset = make_dataset(TrainingSchedule(10, total_env_steps=80))
    next(iter(dataset))
    assert dataset.collector.progress.env_steps == 0


def test_a_rollout_is_not_iterable_and_the_dataset_reports_an_unreachable_length() -> None:
    dataset = make_dataset(TrainingSchedule(10, total_env_steps=80))
    assert not isinstance(next(iter(dataset)), Iterable)
    assert len(dataset) == 2**31 - 1


def test_on_end_is_called_when_the_run_is_over() -> None:
    ended_at = []
    dataset = make_dataset(TrainingSchedule(10, total_env_steps=20))
    dataset.on_end = lambda: ended_at.append(dataset.collector.progress.env_steps)
    updates(dataset)
    assert ended_at == [20]


def test_priorities_are_set_in_the_replay_if_its_sampler_uses_them() -> None:
    schedule = TrainingSchedule(20, total_env_steps=60)
    assert not next(iter(make_dataset(schedule))).has_priorities
    dataset = make_dataset(schedule, sampler=Prioritized(alpha=1.0))
    for rollout in dataset:
        assert rollout.has_priorities
        for batch in rollout(zeros):
            # Only rows with an even number have a priority.
            rollout.set_priorities(batch.row, (batch.row % 2 == 0).double())
    drawn = dataset.collector.replay.sample(500).row
    known = drawn[drawn < 40]  # the newest rows may not have been drawn yet
    assert len(known) > 100
    assert (known % 2 == 0).double().mean() > 0.9


def test_schedules_of_the_replay_are_evaluated_at_the_step_at_which_the_update_was_due() -> None:
    beta, n_step = Recorder(), Recorder()
    schedule = TrainingSchedule(6, update_period=2, total_env_steps=12)
    dataset = make_dataset(schedule, 4, Prioritized(beta=beta), n_step)
    beta.seen, n_step.seen = [], []
    updates(dataset)
    assert beta.seen == n_step.seen == [6, 8, 10, 12]


class Recorder:
    """A schedule with the value 1 that records its arguments."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, count: int) -> float:
        self.seen.append(count)
        return 1.0


def drain(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass
