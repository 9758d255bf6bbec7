"""Schedules: a count of steps → a value.

They are functions of the absolute count, never of a fraction of the run, so a longer run
continues a shorter one.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """Anything that gives a value for a count of steps."""

    def __call__(self, count: int) -> float:
        """The value at `count` steps."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same value always.

    >>> Constant(0.1)(1_000)
    0.1
    """

    value: float

    def __call__(self, count: int) -> float:
        """The value, whatever the count."""
        return self.value


def as_schedule(value: float | Schedule) -> Schedule:
    """A schedule as it is; a number as the schedule that always has it."""
    return Constant(value) if isinstance(value, (int, float)) else value


CHECKED_COUNTS = (0, *(10**power for power in range(10)))
"""Counts at which values are checked at start: a schedule is any function, so some must do."""


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` to `end` over `steps`, then `end`.

    >>> [Linear(1.0, 0.0, steps=10)(count) for count in (0, 5, 10, 20)]
    [1.0, 0.5, 0.0, 0.0]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse a line without length."""
        if self.steps < 1:
            raise ValueError(f"Linear: steps must be at least 1, got {self.steps}")

    def __call__(self, count: int) -> float:
        """The value at `count` steps."""
        return self.start + (self.end - self.start) * min(count / self.steps, 1.0)


@dataclass(frozen=True)
class Exponential:
    """Decay towards `end`: `end + (start - end) exp(-count / steps)`.

    >>> round(Exponential(0.9, 0.05, steps=200)(200), 4)
    0.3627
    """

    start: float
    end: float
    steps: float

    def __post_init__(self) -> None:
        """Refuse a decay that would grow."""
        if self.steps <= 0:
            raise ValueError(f"Exponential: steps must be positive, got {self.steps}")

    def __call__(self, count: int) -> float:
        """The value at `count` steps."""
        return self.end + (self.start - self.end) * math.exp(-count / self.steps)
