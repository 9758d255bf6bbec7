"""Means of training values since the last log entry, and a check that values are finite."""

import math
from typing import Any

import torch
from torch import Tensor

from dqn_lightning.errors import NonFiniteError


class RunningMeans:
    """Means of named values over all updates since the last `compute` or `reset`.

    Each update adds one tensor [B] per name. Sums are accumulated on the device of these tensors,
    without host-device syncs.

    Args:
        names: Names of the values.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self._sums: list[Tensor] | None = None
        self._count = 0

    def update(self, *values: Tensor) -> None:
        """Add the values of one update, one tensor [B] per name."""
        self._count += 1
        if self._sums is None:
            self._sums = [value.clone() for value in values]
            return
        if len(self._sums[0]) != len(values[0]):  # the run was resumed with another batch size
            self._sums = [sums.mean().repeat(len(values[0])) for sums in self._sums]
        for sums, value in zip(self._sums, values, strict=True):
            sums += value

    def compute(self) -> dict[str, float]:
        """Return the means by name and discard the accumulated values (with a host-device sync)."""
        assert self._sums is not None
        means = [float(sums.mean()) / self._count for sums in self._sums]
        self.reset()
        return dict(zip(self._names, means, strict=True))

    def reset(self) -> None:
        """Discard the accumulated values."""
        self._sums, self._count = None, 0

    def to(self, device: torch.device) -> None:
        """Move the accumulated sums to a device."""
        if self._sums is not None:
            self._sums = [sums.to(device) for sums in self._sums]

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated sums and the number of updates."""
        sums = None if self._sums is None else [sums.clone() for sums in self._sums]
        return {"sums": sums, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the accumulated sums and the number of updates."""
        sums = state["sums"]  # cloned, because `update` adds in place
        self._sums = None if sums is None else [values.clone() for values in sums]
        self._count = state["count"]


def check_finite(values: dict[str, float], when: str) -> None:
    """Check that all values are finite.

    Args:
        values: Values by name.
        when: Description of the current update and environment step, for the error message.

    Raises:
        NonFiniteError: If a value is NaN or infinite.
    """
    if not all(map(math.isfinite, values.values())):
        raise NonFiniteError(
            f"the loss is not finite at {when}: {values}; try a smaller learning rate "
            "(model.optimizer) or gradient_clamp"
        )
