"""Samplers: which rows are drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
    """

    rows: range
    drawable: Callable[[Rows], NDArray[np.bool_]]
    rng: np.random.Generator

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


class Sampler(Protocol):
    """Draws numbers of rows."""

    @property
    def replacement(self) -> bool:
        """Whether a row may stand in a batch more than once."""
        ...

    def draw(self, pool: Pool, batch_size: int) -> Rows:
        """Numbers of `batch_size` drawable rows [B], int64."""
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

    def draw(self, pool: Pool, batch_size: int) -> Rows:
        """Numbers of `batch_size` rows [B], int64.

        Raises:
            RuntimeError: If there are fewer rows than are asked for.
        """
        if self.replacement:
            return _with_replacement(pool, batch_size)
        return _without_replacement(pool, batch_size)


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
