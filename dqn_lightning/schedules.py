"""Schedules: functions from a step count to a value.

A schedule depends on the absolute count, not on the fraction of the run that is complete, so a
run that is extended later follows the same schedule.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dqn_lightning.errors import ConfigError


@runtime_checkable
class Schedule(Protocol):
    """Interface for schedules: functions from a step count to a value."""

    def __call__(self, count: int) -> float:
        """Return the value after `count` steps."""
        ...


@dataclass(frozen=True)
class Constant:
    """Constant schedule.

    Args:
        value: Value at every count.

    >>> Constant(0.1)(1_000)
    0.1
    """

    value: float

    def __call__(self, count: int) -> float:
        """Return the value; the count is ignored."""
        return self.value


def as_schedule(value: float | Schedule) -> Schedule:
    """Convert a number to a `Constant`; return a schedule unchanged."""
    return Constant(value) if isinstance(value, (int, float)) else value


CHECKED_COUNTS = (0, *(10**power for power in range(10)))
"""Counts at which a schedule's values are validated at startup.

A schedule may be any function, so its values can only be checked at a sample of counts.
"""


@dataclass(frozen=True)
class Linear:
    """Linear interpolation from `start` to `end` over `steps` steps, constant afterwards.

    Args:
        start: Value at count 0.
        end: Value from count `steps` on.
        steps: Number of steps over which to interpolate.

    Raises:
        ConfigError: If `steps` is less than 1.

    >>> [Linear(1.0, 0.0, steps=10)(count) for count in (0, 5, 10, 20)]
    [1.0, 0.5, 0.0, 0.0]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        """Validate the number of steps."""
        if self.steps < 1:
            raise ConfigError(f"Linear: steps must be at least 1, got {self.steps}")

    def __call__(self, count: int) -> float:
        """Return the value after `count` steps."""
        return self.start + (self.end - self.start) * min(count / self.steps, 1.0)


@dataclass(frozen=True)
class Exponential:
    """Exponential decay from `start` to `end`: end + (start - end) exp(-count / steps).

    Args:
        start: Value at count 0.
        end: Value that the schedule approaches.
        steps: Time constant of the decay, in steps.

    Raises:
        ConfigError: If `steps` is not positive.

    >>> round(Exponential(0.9, 0.05, steps=200)(200), 4)
    0.3627
    """

    start: float
    end: float
    steps: float

    def __post_init__(self) -> None:
        """Validate the time constant."""
        if self.steps <= 0:
            raise ConfigError(f"Exponential: steps must be positive, got {self.steps}")

    def __call__(self, count: int) -> float:
        """Return the value after `count` steps."""
        return self.end + (self.start - self.end) * math.exp(-count / self.steps)
