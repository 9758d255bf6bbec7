"""Samplers: which rows are drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """Draws numbers of rows."""

    @property
    def replacement(self) -> bool:
        """Whether a row may stand in a batch more than once."""
        ...

    def draw(
        self,
        rows: range,
        drawable: Callable[[Tensor], Tensor],
        batch_size: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Numbers of `batch_size` rows [B] out of `rows` for which `drawable` is true."""
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

    def draw(
        self,
        rows: range,
        drawable: Callable[[Tensor], Tensor],
        batch_size: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Numbers of `batch_size` rows [B], int64.

        Raises:
            RuntimeError: If there are fewer rows than are asked for.
        """
        if self.replacement:
            return self._with_replacement(rows, drawable, batch_size, generator)
        return self._without_replacement(rows, drawable, batch_size, generator)

    def _with_replacement(
        self,
        rows: range,
        drawable: Callable[[Tensor], Tensor],
        batch_size: int,
        generator: torch.Generator,
    ) -> Tensor:
        drawn = _candidates(rows, batch_size, generator)
        for _ in range(_ROUNDS):
            usable = drawable(drawn)
            if usable.all():
                return drawn
            again = (~usable).nonzero().flatten()
            drawn[again] = _candidates(rows, len(again), generator)
        every = _every_drawable(rows, drawable, 1, generator)
        return every[_candidates(range(len(every)), batch_size, generator)]

    def _without_replacement(
        self,
        rows: range,
        drawable: Callable[[Tensor], Tensor],
        batch_size: int,
        generator: torch.Generator,
    ) -> Tensor:
        if len(rows) > 4 * batch_size:
            drawn: Tensor = torch.empty(0, dtype=torch.int64, device=generator.device)
            for _ in range(_ROUNDS):
                fresh = _candidates(rows, batch_size - len(drawn), generator)
                drawn = torch.unique(torch.cat([drawn, fresh[drawable(fresh)]]))
                if len(drawn) == batch_size:
                    return drawn
        every = _every_drawable(rows, drawable, batch_size, generator)
        order = torch.randperm(len(every), generator=generator, device=generator.device)
        return every[order[:batch_size]]


_ROUNDS = 64
"""Rounds of drawing again before all rows are looked at (slow, but it always ends)."""


def _candidates(rows: range, count: int, generator: torch.Generator) -> Tensor:
    if not rows:
        raise RuntimeError("the replay is empty: nothing can be drawn")
    return torch.randint(
        rows.start, rows.stop, (count,), generator=generator, device=generator.device
    )


def _every_drawable(
    rows: range, drawable: Callable[[Tensor], Tensor], needed: int, generator: torch.Generator
) -> Tensor:
    every = torch.arange(rows.start, rows.stop, device=generator.device)
    every = every[drawable(every)]
    if len(every) < needed:
        raise RuntimeError(f"only {len(every)} rows of the replay can be drawn, {needed} wanted")
    return every
