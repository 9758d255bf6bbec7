from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from dqn_lightning.interaction.evaluation import EvaluationResult
from dqn_lightning.interaction.metrics import EvaluationMetrics
from dqn_lightning.types import Episode


def make_episodes(returns: Any, lengths: Any) -> list[Episode]:
    pairs = zip(np.asarray(returns).tolist(), np.asarray(lengths).tolist(), strict=True)
    return [
        Episode(i, length, episode_return, 0) for i, (episode_return, length) in enumerate(pairs)
    ]


class SuccessRate(Metric):
    """Share of the episodes whose return reaches a threshold."""

    successes: Tensor
    num_episodes: Tensor

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.add_state("successes", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_episodes", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, returns: Tensor) -> None:
        self.successes += (returns >= self.threshold).sum()
        self.num_episodes += len(returns)

    def compute(self) -> Tensor:
        share: Tensor = self.successes / self.num_episodes
        return share


class RewardPerStep(Metric):
    """Sum of all returns divided by the sum of all lengths."""

    total_return: Tensor
    total_length: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total_return", torch.tensor(0.0, dtype=torch.float64))
        self.add_state("total_length", torch.tensor(0))

    def update(self, returns: Tensor, lengths: Tensor) -> None:
        self.total_return += returns.sum()
        self.total_length += lengths.sum()

    def compute(self) -> Tensor:
        ratio: Tensor = self.total_return / self.total_length
        return ratio


def test_metrics_of_two_episodes_match_values_computed_by_hand() -> None:
    metrics = EvaluationMetrics()
    metrics.update([Episode(0, 2, 1.0, 0), Episode(1, 4, 3.0, 0)])
    assert metrics.result() == EvaluationResult(2, 2.0, 1.0, 1.0, 3.0, 3.0)
    assert list(metrics.compute()) == list(EvaluationResult._fields[:-1])


def test_episodes_that_were_cut_short_are_counted_and_included_in_all_metrics() -> None:
    metrics = EvaluationMetrics()
    metrics.update([Episode(0, 2, 1.0, 0), Episode(1, 4, 3.0, 0, cut_short=True)])
    assert metrics.result() == EvaluationResult(2, 2.0, 1.0, 1.0, 3.0, 3.0, 1)
    assert metrics.compute()["episodes_cut_short"] == 1.0
    metrics.reset()
    metrics.update([Episode(0, 2, 1.0, 0)])
    assert metrics.result().episodes_cut_short == 0
    assert "episodes_cut_short" not in metrics.compute()


@pytest.mark.parametrize("num_episodes", [1, 2, 20, 100, 1_000])
def test_metrics_equal_those_of_numpy_to_the_last_bit(num_episodes: int) -> None:
    rng = np.random.default_rng(num_episodes)
    metrics = EvaluationMetrics()
    for _ in range(20):
        returns = rng.normal(-150.0, 90.0, num_episodes)
        lengths = rng.integers(1, 1_000, num_episodes)
        metrics.reset()
        metrics.update(make_episodes(returns, lengths))
        assert metrics.compute() == {
            "episodes": num_episodes,
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            "length_mean": float(lengths.mean()),
        }


def test_updates_accumulate_until_the_metrics_are_reset() -> None:
    metrics = EvaluationMetrics()
    metrics.update(make_episodes([1.0, 2.0], [10, 20]))
    metrics.update(make_episodes([6.0], [60]))
    assert metrics.result().return_mean == 3.0
    metrics.reset()
    metrics.update(make_episodes([5.0], [7]))
    assert metrics.result() == (1, 5.0, 0.0, 5.0, 5.0, 7.0, 0)


def test_lengths_stay_separate_when_they_equal_the_returns_of_the_first_evaluation() -> None:
    metrics = EvaluationMetrics()
    metrics.update(make_episodes([10.0, 20.0], [10, 20]))
    metrics.compute()
    metrics.reset()
    metrics.update(make_episodes([-1.0, -3.0], [100, 300]))
    values = metrics.compute()
    assert (values["return_mean"], values["length_mean"]) == (-2.0, 200.0)


def test_added_metrics_receive_the_arguments_that_they_accept() -> None:
    metrics = EvaluationMetrics()
    metrics.add(success_rate=SuccessRate(195.0), reward_per_step=RewardPerStep())
    metrics.update(make_episodes([200.0, 100.0, 195.0, 5.0], [200, 100, 500, 200]))
    values = metrics.compute()
    assert values["success_rate"] == 0.5
    assert values["reward_per_step"] == 0.5
    assert list(values)[:6] == list(EvaluationResult._fields[:6])


def test_added_metrics_are_reset_too() -> None:
    metrics = EvaluationMetrics()
    metrics.add(success_rate=SuccessRate(195.0))
    metrics.update(make_episodes([200.0], [200]))
    metrics.reset()
    metrics.update(make_episodes([1.0], [1]))
    assert metrics.compute()["success_rate"] == 0.0


def test_added_metrics_are_not_synchronized_between_ranks() -> None:
    metric = SuccessRate(1.0)
    EvaluationMetrics().add(success_rate=metric)
    assert not metric.sync_on_compute


def test_a_name_cannot_be_used_twice() -> None:
    metrics = EvaluationMetrics()
    with pytest.raises(ValueError, match="return_mean"):
        metrics.add(return_mean=SuccessRate(1.0))
