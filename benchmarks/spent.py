"""Measure the seconds spent in calls, by part of the program."""

import time
from typing import Any


class Spent(dict[str, float]):
    """Seconds by part of the program."""

    def measure(self, owner: Any, name: str, part: str) -> None:
        """Add the time of all further calls of `owner.name(…)` to a part."""
        call = getattr(owner, name)
        self.setdefault(part, 0.0)

        def timing(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = call(*args, **kwargs)
            self[part] += time.perf_counter() - started
            return result

        object.__setattr__(owner, name, timing)

    def show(self, seconds: float, steps: int, rest: str) -> None:
        """Print microseconds per step and share of each part, and of the remaining time."""
        for part, value in {**self, rest: seconds - sum(self.values())}.items():
            print(f"  {part:<20}{1e6 * value / steps:>9,.1f}{value / seconds:>7.0%}")
