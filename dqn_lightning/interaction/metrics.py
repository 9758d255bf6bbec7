"""Metrics over the episodes of an evaluation or a test, implemented with torchmetrics."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from dqn_lightning.interaction.evaluation import EvaluationResult
from dqn_lightning.types import Episode

Statistic: TypeAlias = Callable[[NDArray[np.float64]], Any]
"""Function that maps the values [E] of all episodes to a number."""


class EpisodeStatistic(Metric):
    """Metric that computes a statistic, such as the mean, of episode returns or lengths.

    All values are stored in float64 and reduced in a single call of `statistic`, so with a NumPy
    function the result is bit-identical to NumPy's.

    Args:
        quantity: Values to reduce: `returns` or `lengths`.
        statistic: Function that maps the values [E] of all episodes to a number.

    Example:
        >>> metric = EpisodeStatistic("returns", np.std)
        >>> metric.update(returns=torch.tensor([1.0, 3.0]), lengths=torch.tensor([10, 20]))
        >>> float(metric.compute())
        1.0
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, quantity: Literal["returns", "lengths"], statistic: Statistic) -> None:
        super().__init__(sync_on_compute=False)
        self.quantity = quantity
        self.statistic = statistic
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, returns: Tensor, lengths: Tensor) -> None:
        """Add the returns [E] and the lengths [E], in environment steps, of E episodes."""
        values = returns if self.quantity == "returns" else lengths
        self.values.append(values.double())

    def compute(self) -> Tensor:
        """Return the statistic over all episodes as a scalar float64 tensor."""
        values = torch.cat(self.values).numpy(force=True)
        return torch.tensor(float(self.statistic(values)), dtype=torch.float64)


class EvaluationMetrics:
    """Collection of metrics over the episodes of an evaluation or test.

    The metrics in `EvaluationResult` are always computed; `add` adds further metrics. The `update`
    method of a metric must accept at least one of the following keyword arguments:

    - `returns`: undiscounted episode returns [E], float64
    - `lengths`: episode lengths [E] in environment steps, int64

    The `compute` method must return a number or a dictionary of numbers. Each rank computes the
    metrics on the CPU from the episodes of all ranks, without communication.

    Example:
        >>> class SuccessRate(Metric):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.add_state("successes", torch.tensor(0))
        ...         self.add_state("episodes", torch.tensor(0))
        ...
        ...     def update(self, returns):
        ...         self.successes += (returns >= 200).sum()
        ...         self.episodes += len(returns)
        ...
        ...     def compute(self):
        ...         return self.successes / self.episodes
        >>> metrics = EvaluationMetrics()
        >>> metrics.add(success_rate=SuccessRate())
        >>> metrics.update([Episode(0, 150, 150.0, 0), Episode(1, 250, 250.0, 0)])
        >>> values = metrics.compute()
        >>> values["return_mean"], values["success_rate"]
        (200.0, 0.5)
    """

    def __init__(self) -> None:
        statistics = {
            "episodes": EpisodeStatistic("returns", len),
            "return_mean": EpisodeStatistic("returns", np.mean),
            "return_std": EpisodeStatistic("returns", np.std),
            "return_min": EpisodeStatistic("returns", np.min),
            "return_max": EpisodeStatistic("returns", np.max),
            "length_mean": EpisodeStatistic("lengths", np.mean),
        }
        # Compute groups would let metrics share their state if it is equal after the first update,
        # as it is for returns and lengths where every step has a reward of 1.
        self._metrics = MetricCollection(dict[str, Any](statistics), compute_groups=False)
        self._num_cut_short = 0

    @property
    def names(self) -> list[str]:
        """Names of all metrics; a metric that computes a dictionary is logged under its keys."""
        return [str(name) for name in self._metrics]

    def add(self, **metrics: Metric) -> None:
        """Add metrics; each keyword is the name under which the metric is logged.

        Raises:
            ValueError: If a name is already in use.
        """
        for name, metric in metrics.items():
            if name in self._metrics:
                raise ValueError(
                    f"evaluation metric {name}: there is already a metric of this name"
                )
            metric.sync_on_compute = False  # every rank has the episodes of all ranks
            self._metrics.add_metrics({name: metric})

    def update(self, episodes: Sequence[Episode]) -> None:
        """Add episodes to every metric."""
        returns = [episode.episode_return for episode in episodes]
        lengths = [episode.length for episode in episodes]
        self._metrics.update(
            returns=torch.tensor(returns, dtype=torch.float64),
            lengths=torch.tensor(lengths, dtype=torch.int64),
        )
        self._num_cut_short += sum(episode.cut_short for episode in episodes)

    def compute(self) -> dict[str, float]:
        """Return the values of all metrics, starting with the fields of `EvaluationResult`.

        The value `episodes_cut_short` is omitted if it is 0.
        """
        values = {name: float(value) for name, value in self._metrics.compute().items()}
        if self._num_cut_short:
            values["episodes_cut_short"] = float(self._num_cut_short)
        first = {name: values[name] for name in EvaluationResult._fields if name in values}
        return {**first, **values}

    def result(self) -> EvaluationResult:
        """Return the metrics that are always computed, as an `EvaluationResult`."""
        values = self.compute()
        episodes, *statistics = (values[name] for name in EvaluationResult._fields[:-1])
        return EvaluationResult._make((int(episodes), *statistics, self._num_cut_short))

    def reset(self) -> None:
        """Reset every metric."""
        self._metrics.reset()
        self._num_cut_short = 0
