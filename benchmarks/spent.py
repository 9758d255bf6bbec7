"""Where time goes: seconds spent in calls, by the part they belong to."""

import time
from typing import Any


class Spent(dict[str, float]):
    """Seconds by part."""

    def measure(self, owner: Any, name: str, part: str) -> None:
        """From now on, count the time of `owner.name(…)` to this part."""
        call = getattr(owner, name)
        self.setdefault(part, 0.0)

        def timing(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = call(*args, **kwargs)
            self[part] += time.perf_counter() - started
            return result

        object.__setattr__(owner, name, timing)

    def show(self, seconds: float, steps: int, rest: str) -> None:
        """Print microseconds per step and share; what is left of the seconds is the rest."""
        for part, value in {**self, rest: seconds - sum(self.values())}.items():
            print(f"  {part:<20}{1e6 * value / steps:>9,.1f}{value / seconds:>7.0%}")
