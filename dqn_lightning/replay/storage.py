"""Where the rows lie: a ring of columns."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning.types import Observations

_LAYOUT = {
    "action": np.int64,
    "reward": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "episode_step": np.int32,
    "boundary": np.bool_,
}


class Storage:
    """A ring of `slots` vector steps of `num_envs` rows each, one column per quantity.

    Observations lie on the device that they are drawn for. All else is a few bytes a row and is
    looked at one by one to tell what can be drawn, so it lies in numpy's arrays on the host, where
    a small operation costs a third and nothing waits for a device.

    Every column also has a flat view over slots and environments, in the order of time: row
    `t * num_envs + env` lies at that number modulo the size.

    Args:
        slots: Vector steps that fit, the pending one included.
        num_envs: Environments N.
        obs_shape: Shape of one observation.
        obs_dtype: Its dtype, kept as it is (a uint8 picture stays one byte a pixel).
        device: Where observations lie.

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
        self._obs = torch.zeros((slots, num_envs, *obs_shape), dtype=obs_dtype, device=device)
        self._flat_obs = self._obs.flatten(0, 1)
        self._arrays: dict[str, NDArray[Any]] = {
            name: np.zeros((slots, num_envs), dtype) for name, dtype in _LAYOUT.items()
        }
        self._is_on_host = self._obs.device.type == "cpu"
        if self._is_on_host:
            self._arrays["obs"] = self._obs.numpy()
        self._flat = {name: a.reshape(-1, *a.shape[2:]) for name, a in self._arrays.items()}
        self._columns = {name: torch.from_numpy(array) for name, array in self._arrays.items()}
        self._columns["obs"] = self._obs
        self.slot_bytes = sum(c[0].numel() * c.element_size() for c in self._columns.values())

    @staticmethod
    def num_bytes(capacity: int, obs_shape: tuple[int, ...], obs_dtype: torch.dtype) -> int:
        """Bytes that `capacity` rows take: known before they are taken."""
        others = sum(np.dtype(dtype).itemsize for dtype in _LAYOUT.values())
        return capacity * (int(np.prod(obs_shape)) * obs_dtype.itemsize + others)

    def write(self, slot: int, **values: Any) -> None:
        """Write one value per environment [N, …] into the named columns of a slot."""
        for name, value in values.items():
            if name in self._arrays:
                self._arrays[name][slot] = value
            else:
                self._obs[slot] = torch.as_tensor(value)

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

    def slot(self, name: str, slot: int) -> NDArray[Any]:
        """A view of one column's slot [N]."""
        values: NDArray[Any] = self._arrays[name][slot]
        return values

    def obs(self, slot: int) -> Observations:
        """A view of a slot's observations [N, …]."""
        return self._arrays["obs"][slot] if self._is_on_host else self._obs[slot]

    def take(self, name: str, position: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of one column at flat positions [B] → [B]."""
        return self._flat[name].take(position)

    def take_obs(self, position: NDArray[np.int64]) -> Tensor:
        """A copy of the observations at flat positions [B] → [B, …]."""
        if self._is_on_host:
            return torch.from_numpy(self._flat["obs"].take(position, axis=0))
        return self._flat_obs.index_select(0, self.to_device(position))

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """The array as a tensor where the observations lie."""
        tensor = torch.from_numpy(array)
        return tensor if self._is_on_host else tensor.to(self._obs.device, non_blocking=True)
