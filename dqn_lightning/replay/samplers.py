"""Samplers, which select the rows of a batch: uniformly or in proportion to priorities."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from dqn_lightning import distributed
from dqn_lightning.errors import ConfigError, NonFiniteError
from dqn_lightning.replay.priorities import PrefixSums, Priorities, SumTree
from dqn_lightning.schedules import CHECKED_COUNTS, Schedule, as_schedule

Rows: TypeAlias = NDArray[np.int64]
"""Row numbers, counted from the start of the run."""

_MAX_REJECTION_ROUNDS = 64
"""Rounds of rejection sampling before the sampler falls back to checking every row."""


class SamplingPool(NamedTuple):
    """Rows from which a sampler can choose.

    The newest and the oldest rows are unsettled: whether they can be sampled may change from one
    batch to the next, so they must be checked again.

    Attributes:
        rows: Range of the complete rows, that is, rows whose action and reward are known.
        samplable: Function that maps complete rows [B] to a mask [B], true for those that can be
            sampled.
        rng: Random generator.
        num_pending: Number of incomplete rows that follow `rows`.
        num_unsettled_newest: Number of newest rows whose n-step windows may still be incomplete.
        num_unsettled_oldest: Number of oldest rows whose stacked frames may have been overwritten.
        env_steps: Environment steps of the run so far.
    """

    rows: range
    samplable: Callable[[Rows], NDArray[np.bool_]]
    rng: np.random.Generator
    num_pending: int = 1
    num_unsettled_newest: int = 0
    num_unsettled_oldest: int = 0
    env_steps: int = 0

    def random_rows(self, count: int) -> Rows:
        """Draw row numbers [count] uniformly, with replacement, from all complete rows.

        The result may include rows that cannot be sampled.

        Raises:
            RuntimeError: If there are no complete rows.
        """
        if not self.rows:
            raise RuntimeError("the replay is empty: no row can be sampled")
        # Three times as fast as `integers`; the bias is less than one in 2^53 / rows.
        return self.rows.start + (self.rng.random(count) * len(self.rows)).astype(np.int64)

    def samplable_rows(self, at_least: int) -> Rows:
        """Return the numbers of all rows that can be sampled. Slow, because every row is checked.

        Raises:
            RuntimeError: If fewer than `at_least` rows can be sampled.
        """
        rows = np.arange(self.rows.start, self.rows.stop)
        rows = rows[self.samplable(rows)]
        if len(rows) < at_least:
            raise RuntimeError(
                f"only {len(rows)} rows of the replay can be sampled, need {at_least}"
            )
        return rows


class SampledRows(NamedTuple):
    """Rows selected for a batch.

    Attributes:
        rows: Row numbers [B], int64.
        weight: Loss weights [B], float32.
    """

    rows: Rows
    weight: NDArray[np.float32]


class Sampler(Protocol):
    """Algorithm that selects the rows of a batch."""

    @property
    def replacement(self) -> bool:
        """Whether a batch can contain the same row more than once."""
        ...

    def sample(self, pool: SamplingPool, batch_size: int) -> SampledRows:
        """Select `batch_size` samplable rows and their loss weights."""
        ...

    def probabilities(self, pool: SamplingPool) -> NDArray[np.float64]:
        """Return the sampling probabilities [len(pool.rows)] of all rows in the pool."""
        ...


@runtime_checkable
class PrioritySampler(Sampler, Protocol):
    """Sampler that stores a priority for each row and must not be shared between replays."""

    def reset(self, num_positions: int, device: torch.device) -> None:
        """Delete all priorities.

        Args:
            num_positions: Number of positions in the ring buffer. Row i is at position
                `i % num_positions`.
            device: Device on which the replay stores observations.
        """
        ...

    def update(self, rows: Any, priority: Any, live: range) -> None:
        """Set the priorities of rows that are still in the buffer.

        Args:
            rows: Row numbers [B], an array or a tensor.
            priority: New priorities [B], an array or a tensor.
            live: Range of the rows still in the buffer. All other rows are ignored.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state, which includes all priorities."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Sampler that selects all samplable rows with equal probability.

    It uses rejection sampling: rows that cannot be sampled are replaced by new random rows. This
    avoids a list of samplable rows that would have to be updated by each write.

    Args:
        replacement: Whether a batch may contain the same row more than once. Sampling with
            replacement is faster, and duplicates are rare in a large replay.
    """

    replacement: bool = True

    def sample(self, pool: SamplingPool, batch_size: int) -> SampledRows:
        """Select `batch_size` samplable rows, all with weight 1.

        Raises:
            RuntimeError: If no row can be sampled, or if sampling is without replacement and fewer
                than `batch_size` rows can be sampled.
        """
        choose = _with_replacement if self.replacement else _without_replacement
        return SampledRows(choose(pool, batch_size), np.ones(batch_size, np.float32))

    def probabilities(self, pool: SamplingPool) -> NDArray[np.float64]:
        """Return the sampling probabilities [len(pool.rows)] of all rows in the pool."""
        samplable = pool.samplable(np.arange(pool.rows.start, pool.rows.stop))
        probabilities: NDArray[np.float64] = samplable / max(1, int(np.count_nonzero(samplable)))
        return probabilities


class Prioritized:
    """Prioritized sampler (Schaul et al. 2016, proportional variant).

    The sampling probability of a row is proportional to its scaled priority, (|priority| +
    eps)^alpha. A new row is assigned the largest scaled priority so far (initially that of priority
    1), so that it is likely to be sampled at least once. The scaled priority of a row that cannot
    be sampled is 0. Sampling is stratified: for a batch of B rows, the sum of all scaled priorities
    is divided into B equal segments, and one row is sampled from each.

    The importance weights are relative to uniform sampling from the replays of all R ranks. Rank r
    samples its row i with probability P_r(i); among the rows of all ranks, the probability is
    P_r(i) / R. With N rows per rank on average, the uniform probability is 1 / (R N). The weights
    are therefore

        w_i = (N P_r(i))^-beta / max_{s,j} (N P_s(j))^-beta

    where the maximum is over all rows j in the batches of all ranks s. N cancels:
    w_i = (min_{s,j} P_s(j) / P_r(i))^beta.

    The defaults are those of Dopamine's Rainbow (Castro et al. 2018), which uses a constant beta.
    Schaul et al. (2016) use alpha 0.6 and anneal beta from 0.4 to 1; Hessel et al. (2018) use alpha
    0.5 and the same schedule for beta.

    Args:
        alpha: Exponent for the priorities: 0 samples uniformly, 1 in proportion to the priorities.
        beta: Exponent for the importance weights: a number, or a schedule over environment steps.
            With 1, the weights fully correct for non-uniform sampling, apart from the normalization
            by the largest weight of a batch.
        uniform_share: Fraction of rows sampled uniformly instead of by priority. The importance
            weights use the probabilities of this mixture.
        eps: Constant added to the absolute priorities, so that rows with priority 0 can be sampled.

    Raises:
        ConfigError: If a value is out of range.
    """

    replacement = True

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float | Schedule = 0.5,
        uniform_share: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        flag = "data.replay.sampler"
        if not 0 <= alpha < np.inf:
            raise ConfigError(f"{flag}.alpha: must not be negative or infinite, got {alpha}")
        if not 0 <= uniform_share <= 1:
            raise ConfigError(f"{flag}.uniform_share: must be in [0, 1], got {uniform_share}")
        if not 0 < eps < np.inf:
            raise ConfigError(f"{flag}.eps: must be positive and finite, got {eps}")
        self.beta = as_schedule(beta)
        for count in CHECKED_COUNTS:
            if not 0 <= (value := self.beta(count)) < np.inf:
                raise ConfigError(
                    f"{flag}.beta: must not be negative or infinite, is {value} at environment "
                    f"step {count}"
                )
        self.alpha = alpha
        self.uniform_share = uniform_share
        self.eps = eps
        self._stop = 0  # rows before this number have a priority or were found not samplable
        self._num_unsettled_newest = 0  # number of newest ones that must be checked again

    def reset(self, num_positions: int, device: torch.device) -> None:
        """Delete all priorities.

        Args:
            num_positions: Number of positions in the ring buffer. Row i is at position
                `i % num_positions`.
            device: Device on which the replay stores observations. The priorities are stored on the
                same device.
        """
        initial = float(self._scaled_priority(1.0))
        self._num_positions = num_positions
        self._priorities: Priorities
        if device.type == "cpu":
            self._priorities = SumTree(num_positions, initial)
        else:
            self._priorities = PrefixSums(num_positions, initial, device)
        self._stop = self._num_unsettled_newest = 0

    def sample(self, pool: SamplingPool, batch_size: int) -> SampledRows:
        """Select `batch_size` samplable rows and their importance weights.

        This is a collective operation: all ranks must call it.

        Raises:
            NonFiniteError: If a priority is not finite.
            RuntimeError: If no row can be sampled.
        """
        checked = self._stop, self._num_unsettled_newest
        if (pool.rows.stop, pool.num_unsettled_newest) != checked:
            self._refresh_priorities(pool)
        fractions = (np.arange(batch_size) + pool.rng.random(batch_size)) / batch_size
        positions = self._priorities.find(fractions)
        if self.uniform_share:
            (uniform,) = np.nonzero(pool.rng.random(batch_size) < self.uniform_share)
            positions[uniform] = _with_replacement(pool, len(uniform)) % self._num_positions
        probability = self._priorities.probabilities(positions, self.uniform_share)
        own_min = probability.min()
        min_probability = distributed.all_reduce_min(own_min if own_min > 0 else 0.0)
        if min_probability == 0:  # on any rank, so that all ranks raise an error
            if np.isnan(own_min) and pool.rows:
                raise NonFiniteError(
                    "priorities are not finite; a smaller learning rate (model.optimizer) or "
                    "gradient_clamp may help"
                )
            raise RuntimeError("no row of the replay can be sampled")
        weight = (min_probability / probability) ** self.beta(pool.env_steps)
        # A position determines the distance of its row from the oldest one.
        rows = pool.rows.start + (positions - pool.rows.start) % self._num_positions
        return SampledRows(rows, weight.astype(np.float32))

    def probabilities(self, pool: SamplingPool) -> NDArray[np.float64]:
        """Return the sampling probabilities [len(pool.rows)] of all rows in the pool.

        Rows written since the last batch have probability 0.
        """
        rows = np.arange(pool.rows.start, pool.rows.stop)
        leaves = self._priorities.get(self._priorities.to_array(rows % self._num_positions))
        leaves = torch.as_tensor(leaves).numpy(force=True) * (rows < self._stop)
        total = leaves.sum()
        if not 0 < total < np.inf:
            return np.zeros(len(rows))
        uniform = (leaves > 0) / np.count_nonzero(leaves)
        probabilities: NDArray[np.float64] = leaves / total * (1 - self.uniform_share)
        return probabilities + uniform * self.uniform_share

    def _refresh_priorities(self, pool: SamplingPool) -> None:
        """Update the scaled priorities of rows that may have become samplable or unsamplable.

        Newly samplable rows are assigned the largest scaled priority so far, unsamplable rows 0.
        """
        start, stop = pool.rows.start, pool.rows.stop
        num_unsettled_newest = max(pool.num_unsettled_newest, self._num_unsettled_newest)
        first = max(start, self._stop - num_unsettled_newest)
        rows = np.arange(first, stop + pool.num_pending)
        if pool.num_unsettled_oldest and start < first:
            oldest = np.arange(start, min(start + pool.num_unsettled_oldest, first))
            rows = np.concatenate([oldest, rows])
        samplable = np.zeros(len(rows), np.bool_)  # pending rows are not
        samplable[: -pool.num_pending] = pool.samplable(rows[: -pool.num_pending])
        priorities = self._priorities
        positions = priorities.to_array(rows % self._num_positions)
        # Leaves of new rows still belong to the rows that they overwrote.
        scaled_priority = priorities.get(positions) * priorities.to_array(rows < self._stop)
        scaled_priority = scaled_priority + (scaled_priority == 0) * priorities.max_value
        scaled_priority = scaled_priority * priorities.to_array(samplable)
        priorities.set(positions, scaled_priority)
        self._stop, self._num_unsettled_newest = stop, pool.num_unsettled_newest

    def update(self, rows: Any, priority: Any, live: range) -> None:
        """Set the priorities of rows. Rows outside `live` or no longer samplable are ignored.

        Args:
            rows: Row numbers [B], an array or a tensor.
            priority: New priorities [B], an array or a tensor.
            live: Range of the rows still in the buffer.
        """
        priorities = self._priorities
        rows = priorities.to_array(rows)
        positions = rows % self._num_positions
        valid = (rows >= live.start) & (rows < self._stop) & (priorities.get(positions) > 0)
        priorities.set(positions, self._scaled_priority(priorities.to_array(priority)), valid)

    def _scaled_priority(self, priority: Any) -> Any:
        return (abs(priority) + self.eps) ** self.alpha

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state.

        It consists of the scaled priorities, the largest one so far, alpha, the number of the first
        row without a scaled priority, and the number of newest unsettled rows (see `SamplingPool`).
        """
        return {
            **self._priorities.state_dict(),
            "stop": self._stop,
            "num_unsettled_newest": self._num_unsettled_newest,
            "alpha": self.alpha,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all priorities; if alpha has changed, rescale them to the new alpha."""
        if state["alpha"] != self.alpha and state["alpha"] > 0:
            exponent = self.alpha / state["alpha"]
            leaves = torch.where(state["leaves"] > 0, state["leaves"] ** exponent, 0.0)
            state = {**state, "leaves": leaves, "max_value": state["max_value"] ** exponent}
        self._priorities.load_state_dict(state)
        self._stop = state["stop"]
        self._num_unsettled_newest = state["num_unsettled_newest"]


def _with_replacement(pool: SamplingPool, batch_size: int) -> Rows:
    rows = pool.random_rows(batch_size)
    for _ in range(_MAX_REJECTION_ROUNDS):
        accepted = pool.samplable(rows)
        if np.count_nonzero(accepted) == batch_size:
            return rows
        (rejected,) = np.nonzero(~accepted)
        rows[rejected] = pool.random_rows(len(rejected))
    return pool.rng.choice(pool.samplable_rows(at_least=1), batch_size)


def _without_replacement(pool: SamplingPool, batch_size: int) -> Rows:
    if len(pool.rows) > 4 * batch_size:
        rows = np.empty(0, np.int64)
        for _ in range(_MAX_REJECTION_ROUNDS):
            new = pool.random_rows(batch_size - len(rows))
            rows = np.unique(np.concatenate([rows, new[pool.samplable(new)]]))
            if len(rows) == batch_size:
                return rows
    return pool.rng.permutation(pool.samplable_rows(at_least=batch_size))[:batch_size]
