"""Samplers: which rows are drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_ROUNDS = 64
"""Rounds of drawing again before all rows are looked at (slow, but it always ends)."""


class Pool(NamedTuple):
    """What can be drawn from.

    Attributes:
        rows: Numbers of the complete rows.
        drawable: Which of some rows [B] can be drawn: a mask [B].
        generator: Source of random numbers; numbers of rows lie on its device.
    """

    rows: range
    drawable: Callable[[Tensor], Tensor]
    generator: torch.Generator

    def candidates(self, count: int) -> Tensor:
        """Any rows [count], drawable or not, each as likely as any other.

        Raises:
            RuntimeError: If there are none.
        """
        if not self.rows:
            raise RuntimeError("the replay is empty: nothing can be drawn")
        return self.random(self.rows, count)

    def random(self, numbers: range, count: int) -> Tensor:
        """Random ones of these numbers [count], int64."""
        low, high, device = numbers.start, numbers.stop, self.generator.device
        return torch.randint(low, high, (count,), generator=self.generator, device=device)

    def every(self, needed: int) -> Tensor:
        """All drawable rows. Looks at every row there is.

        Raises:
            RuntimeError: If there are fewer than are needed.
        """
        every = torch.arange(self.rows.start, self.rows.stop, device=self.generator.device)
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

    def draw(self, pool: Pool, batch_size: int) -> Tensor:
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

    def draw(self, pool: Pool, batch_size: int) -> Tensor:
        """Numbers of `batch_size` rows [B], int64.

        Raises:
            RuntimeError: If there are fewer rows than are asked for.
        """
        if self.replacement:
            return _with_replacement(pool, batch_size)
        return _without_replacement(pool, batch_size)


def _with_replacement(pool: Pool, batch_size: int) -> Tensor:
    drawn = pool.candidates(batch_size)
    for _ in range(_ROUNDS):
        usable = pool.drawable(drawn)
        if usable.all():
            return drawn
        again = (~usable).nonzero().flatten()
        drawn[again] = pool.candidates(len(again))
    every = pool.every(needed=1)
    return every[pool.random(range(len(every)), batch_size)]


def _without_replacement(pool: Pool, batch_size: int) -> Tensor:
    if len(pool.rows) > 4 * batch_size:
        drawn: Tensor = pool.candidates(0)
        for _ in range(_ROUNDS):
            fresh = pool.candidates(batch_size - len(drawn))
            drawn = torch.unique(torch.cat([drawn, fresh[pool.drawable(fresh)]]))
            if len(drawn) == batch_size:
                return drawn
    every = pool.every(needed=batch_size)
    device = pool.generator.device
    order = torch.randperm(len(every), generator=pool.generator, device=device)
    return every[order[:batch_size]]
