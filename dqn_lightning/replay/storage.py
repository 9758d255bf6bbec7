"""Where the rows lie: a ring of columns on one device."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Storage:
    """A ring of `slots` vector steps of `num_envs` rows each, one tensor per column.

    Every column also has a flat view over slots and environments, in the order of time: row
    `t * num_envs + env` lies at that number modulo the size.

    Args:
        slots: Vector steps that fit, the pending one included.
        num_envs: Environments N.
        obs_shape: Shape of one observation.
        obs_dtype: Its dtype, kept as it is (a uint8 picture stays one byte a pixel).
        device: Where the columns lie.

    Attributes:
        slot_bytes: Bytes of one slot.
    """

    def __init__(
        self,
        slots: int,
        num_envs: int,
        obs_shape: tuple[int, ...],
        obs_dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.slots = slots
        self.num_envs = num_envs
        layout = {
            "obs": (obs_shape, obs_dtype),
            "action": ((), torch.int64),
            "reward": ((), torch.float32),
            "terminated": ((), torch.bool),
            "truncated": ((), torch.bool),
            "episode_step": ((), torch.int32),
            "boundary": ((), torch.bool),
        }
        self._columns = {
            name: torch.zeros((slots, num_envs, *shape), dtype=dtype, device=device)
            for name, (shape, dtype) in layout.items()
        }
        self._flat = {name: column.flatten(0, 1) for name, column in self._columns.items()}
        self.slot_bytes = sum(c[0].numel() * c.element_size() for c in self._columns.values())
        on_cpu = torch.device(device).type == "cpu"
        # Indexing a numpy view costs a tenth of indexing a small tensor.
        self._views: dict[str, Any] = (
            {name: column.numpy() for name, column in self._columns.items()} if on_cpu else {}
        )

    @staticmethod
    def num_bytes(capacity: int, obs_shape: tuple[int, ...], obs_dtype: torch.dtype) -> int:
        """Bytes that `capacity` rows take: known before they are taken."""
        scalars = 8 + 4 + 1 + 1 + 4 + 1  # action, reward, terminated, truncated, step, boundary
        return capacity * (int(np.prod(obs_shape)) * obs_dtype.itemsize + scalars)

    def write(self, slot: int, **values: Any) -> None:
        """Write one value per environment [N, …] into the named columns of a slot."""
        for name, value in values.items():
            if self._views:
                self._views[name][slot] = value
            else:
                self._columns[name][slot] = torch.as_tensor(value)

    def read(self, slots: range) -> dict[str, Tensor]:
        """A copy of these slots, which follow each other: columns [number of slots, N, …]."""
        return {
            name: column[slots.start : slots.stop].to("cpu", copy=True)
            for name, column in self._columns.items()
        }

    def fill(self, slot: int, columns: dict[str, Tensor]) -> None:
        """Write columns [number of slots, N, …] into so many slots, from this one on."""
        for name, rows in columns.items():
            self._columns[name][slot : slot + len(rows)] = rows

    def slot(self, name: str, slot: int) -> Tensor:
        """A view of one column's slot [N, …]."""
        if self._views:
            return torch.from_numpy(self._views[name][slot])
        return self._columns[name][slot]

    def take(self, name: str, position: Tensor) -> Tensor:
        """A copy of one column at flat positions [B] → [B, …]."""
        return self._flat[name].index_select(0, position)
