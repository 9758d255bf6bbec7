"""Samplers: which rows are drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from dqn_lightning import ranks
from dqn_lightning.errors import ConfigError, NonFiniteError
from dqn_lightning.replay.priorities import PrefixSums, Priorities, SumTree
from dqn_lightning.schedules import CHECKED_COUNTS, Schedule, as_schedule

Rows: TypeAlias = NDArray[np.int64]
"""Numbers of rows."""

_ROUNDS = 64
"""Rounds of drawing again before all rows are looked at (slow, but it always ends)."""


class Pool(NamedTuple):
    """What can be drawn from.

    Attributes:
        rows: Numbers of the complete rows.
        drawable: Which of some rows [B] can be drawn: a mask [B].
        rng: Source of random numbers.
        pending: Number of rows that follow them, and are not complete.
        newest: How many of the newest may become drawable yet, or no longer be, if n changed.
        oldest: How many of the oldest may be there without the frames of their stack.
        env_steps: Environment steps of the run.
    """

    rows: range
    drawable: Callable[[Rows], NDArray[np.bool_]]
    rng: np.random.Generator
    pending: int = 1
    newest: int = 0
    oldest: int = 0
    env_steps: int = 0

    def candidates(self, count: int) -> Rows:
        """Any rows [count], drawable or not, each as likely as any other.

        Raises:
            RuntimeError: If there are none.
        """
        if not self.rows:
            raise RuntimeError("the replay is empty: nothing can be drawn")
        # A third of the time of `integers`; the chances differ by less than one in 2^53 / rows.
        return self.rows.start + (self.rng.random(count) * len(self.rows)).astype(np.int64)

    def every(self, needed: int) -> Rows:
        """All drawable rows. Looks at every row there is.

        Raises:
            RuntimeError: If there are fewer than are needed.
        """
        every = np.arange(self.rows.start, self.rows.stop)
        every = every[self.drawable(every)]
        if len(every) < needed:
            raise RuntimeError(
                f"only {len(every)} rows of the replay can be drawn, {needed} wanted"
            )
        return every


class Drawn(NamedTuple):
    """Numbers of rows [B], int64, and the weights of their losses [B], float32."""

    rows: Rows
    weight: NDArray[np.float32]


class Sampler(Protocol):
    """Draws numbers of rows."""

    @property
    def replacement(self) -> bool:
        """Whether a row may stand in a batch more than once."""
        ...

    def draw(self, pool: Pool, batch_size: int) -> Drawn:
        """`batch_size` drawable rows and their weights."""
        ...

    def chances(self, pool: Pool) -> NDArray[np.float64]:
        """How likely each of the pool's rows is to be the next one drawn [R]."""
        ...


@runtime_checkable
class PrioritySampler(Sampler, Protocol):
    """Draws rows by what is learnt from them. It has a state, so it belongs to one replay."""

    def begin(self, num_positions: int, device: torch.device) -> None:
        """Forget all rows. Row i lies at i modulo `num_positions`, observations on the device."""
        ...

    def update(self, rows: Any, priority: Any, live: range) -> None:
        """Give rows [B] new priorities [B], both arrays or tensors; `live` are still there."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it knows of the rows."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Every row that can be drawn is as likely as any other.

    Candidates are drawn from all rows and those that cannot be used are drawn again, which keeps
    the choice uniform over the rest and costs nothing when a row is written.

    Args:
        replacement: Whether a row may stand in a batch more than once. With large replays the
            difference does not matter, and with replacement is faster.
    """

    replacement: bool = True

    def draw(self, pool: Pool, batch_size: int) -> Drawn:
        """`batch_size` drawable rows, all of weight 1.

        Raises:
            RuntimeError: If there are fewer rows than are asked for.
        """
        choose = _with_replacement if self.replacement else _without_replacement
        return Drawn(choose(pool, batch_size), np.ones(batch_size, np.float32))

    def chances(self, pool: Pool) -> NDArray[np.float64]:
        """How likely each of the pool's rows is to be the next one drawn [R]."""
        drawable = pool.drawable(np.arange(pool.rows.start, pool.rows.stop))
        chances: NDArray[np.float64] = drawable / max(1, int(np.count_nonzero(drawable)))
        return chances


class Prioritized:
    """Rows are drawn in proportion to their priority (Schaul et al. 2016, proportional variant).

    A row's leaf is (|priority| + eps)^alpha from when it can first be drawn until it no longer can,
    and 0 before and after. It enters with the greatest leaf there ever was (that of priority 1 at
    first), so that everything is seen soon. A batch takes one row from each of B equal stretches of
    the total.

    Rank r draws its row i with probability P_r(i), so of all the ranks' rows together it is drawn
    with P_r(i) / R; uniform over the R N rows there are would be 1 / (R N), if N is the mean number
    of rows of a rank. So what brings the mean back to that of uniform drawing is

        w_i = (N P_r(i))^-beta / max_j (N P_r(j))^-beta

    with the greatest taken over the batches of all ranks. N cancels: it is (min P / P_r(i))^beta.

    The defaults of both exponents are those of Dopamine's Rainbow (Castro et al. 2018), which needs
    no schedule for beta. Schaul et al. have alpha 0.6 and beta from 0.4 to 1, Hessel et al. 2018
    alpha 0.5 and the same beta.

    Args:
        alpha: Exponent of priorities: 0 is uniform, 1 in proportion to them.
        beta: Exponent of weights, 1 for a mean like that of uniform drawing: a number, or a
            schedule of environment steps.
        uniform_share: Share of rows that are drawn uniformly instead, each by chance. P is the
            probability of the mixture then.
        eps: Added to priorities, so that none is 0.

    Raises:
        ConfigError: If a number is out of its range.
    """

    replacement = True

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float | Schedule = 0.5,
        uniform_share: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        if not 0 <= alpha < np.inf:
            raise ConfigError(f"data.sampler.alpha: must not be negative, got {alpha}")
        if not 0 <= uniform_share <= 1:
            raise ConfigError(
                f"data.sampler.uniform_share: must lie in [0, 1], got {uniform_share}"
            )
        if not 0 < eps < np.inf:
            raise ConfigError(f"data.sampler.eps: must be positive, got {eps}")
        self.beta = as_schedule(beta)
        for count in CHECKED_COUNTS:
            if not 0 <= (value := self.beta(count)) < np.inf:
                raise ConfigError(
                    f"data.sampler.beta: must not be negative, is {value} at environment step "
                    f"{count}"
                )
        self.alpha = alpha
        self.uniform_share = uniform_share
        self.eps = eps
        self._stop = 0  # rows before it have been judged
        self._newest = 0  # how many of them were not judged for good

    def begin(self, num_positions: int, device: torch.device) -> None:
        """Forget all rows; leaves lie on the host, or on the GPU where observations do."""
        first = float(self._leaf(1.0))
        self._num_positions = num_positions
        self._priorities: Priorities
        if device.type == "cpu":
            self._priorities = SumTree(num_positions, first)
        else:
            self._priorities = PrefixSums(num_positions, first, device)
        self._stop = self._newest = 0

    def draw(self, pool: Pool, batch_size: int) -> Drawn:
        """`batch_size` drawable rows and their weights. All ranks draw at the same time.

        Raises:
            NonFiniteError: If a priority is not finite.
            RuntimeError: If no row can be drawn.
        """
        if (pool.rows.stop, pool.newest) != (self._stop, self._newest):
            self._judge(pool)
        shares = (np.arange(batch_size) + pool.rng.random(batch_size)) / batch_size
        positions = self._priorities.find(shares)
        if self.uniform_share:
            (uniform,) = np.nonzero(pool.rng.random(batch_size) < self.uniform_share)
            positions[uniform] = _with_replacement(pool, len(uniform)) % self._num_positions
        probability = self._priorities.probability(positions, self.uniform_share)
        own_least = probability.min()
        least = ranks.least(own_least if own_least > 0 else 0.0)
        if least == 0:  # on any rank: so all of them stop
            if np.isnan(own_least) and pool.rows:
                raise NonFiniteError(
                    "priorities are not finite; a smaller learning rate (model.optimizer) or "
                    "gradient_clamp may help"
                )
            raise RuntimeError("no row of the replay can be drawn")
        weight = (least / probability) ** self.beta(pool.env_steps)
        # The position says how far a row lies behind the oldest one.
        rows = pool.rows.start + (positions - pool.rows.start) % self._num_positions
        return Drawn(rows, weight.astype(np.float32))

    def chances(self, pool: Pool) -> NDArray[np.float64]:
        """How likely each of the pool's rows is to be the next one drawn [R].

        Those written since the last draw are not known yet.
        """
        rows = np.arange(pool.rows.start, pool.rows.stop)
        leaves = self._priorities.get(self._priorities.array(rows % self._num_positions))
        leaves = torch.as_tensor(leaves).numpy(force=True) * (rows < self._stop)
        total = leaves.sum()
        if not 0 < total < np.inf:
            return np.zeros(len(rows))
        uniform = (leaves > 0) / np.count_nonzero(leaves)
        chances: NDArray[np.float64] = leaves / total * (1 - self.uniform_share)
        return chances + uniform * self.uniform_share

    def _judge(self, pool: Pool) -> None:
        """Bring leaves up to date: greater than 0 for exactly the rows that can be drawn."""
        start, stop = pool.rows.start, pool.rows.stop
        first = max(start, self._stop - max(pool.newest, self._newest))
        rows = np.arange(first, stop + pool.pending)
        if pool.oldest and start < first:
            rows = np.concatenate([np.arange(start, min(start + pool.oldest, first)), rows])
        drawable = np.zeros(len(rows), np.bool_)  # those that are not complete are not
        drawable[: -pool.pending] = pool.drawable(rows[: -pool.pending])
        priorities = self._priorities
        positions = priorities.array(rows % self._num_positions)
        leaf = priorities.get(positions)
        leaf = leaf * priorities.array(rows < self._stop)  # others' leaves are of rows before them
        leaf = (leaf + (leaf == 0) * priorities.greatest) * priorities.array(drawable)
        priorities.set(positions, leaf)
        self._stop, self._newest = stop, pool.newest

    def update(self, rows: Any, priority: Any, live: range) -> None:
        """Give rows [B] priorities [B], but not those that are no longer `live` or drawable."""
        priorities = self._priorities
        rows = priorities.array(rows)
        positions = rows % self._num_positions
        in_force = (rows >= live.start) & (rows < self._stop) & (priorities.get(positions) > 0)
        priorities.set(positions, self._leaf(priorities.array(priority)), in_force)

    def _leaf(self, priority: Any) -> Any:
        return (abs(priority) + self.eps) ** self.alpha

    def state_dict(self) -> dict[str, Any]:
        """Leaves, and how far rows were judged."""
        judged = {"stop": self._stop, "newest": self._newest}
        return {**self._priorities.state_dict(), **judged, "alpha": self.alpha}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; with another alpha, leaves are those of the same priorities."""
        if state["alpha"] != self.alpha and state["alpha"] > 0:
            change = self.alpha / state["alpha"]
            leaves = torch.where(state["leaves"] > 0, state["leaves"] ** change, 0.0)
            state = {**state, "leaves": leaves, "greatest": state["greatest"] ** change}
        self._priorities.load_state_dict(state)
        self._stop, self._newest = state["stop"], state["newest"]


def _with_replacement(pool: Pool, batch_size: int) -> Rows:
    drawn = pool.candidates(batch_size)
    for _ in range(_ROUNDS):
        usable = pool.drawable(drawn)
        if np.count_nonzero(usable) == batch_size:
            return drawn
        (again,) = np.nonzero(~usable)
        drawn[again] = pool.candidates(len(again))
    return pool.rng.choice(pool.every(needed=1), batch_size)


def _without_replacement(pool: Pool, batch_size: int) -> Rows:
    if len(pool.rows) > 4 * batch_size:
        drawn = np.empty(0, np.int64)
        for _ in range(_ROUNDS):
            fresh = pool.candidates(batch_size - len(drawn))
            drawn = np.unique(np.concatenate([drawn, fresh[pool.drawable(fresh)]]))
            if len(drawn) == batch_size:
                return drawn
    return pool.rng.permutation(pool.every(needed=batch_size))[:batch_size]
