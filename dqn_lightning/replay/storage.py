"""Storage for the replay: a ring buffer with one array per column."""

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
    "is_reset": np.bool_,
}


class Storage:
    """Ring buffer with one column per quantity, such as the observation or the reward.

    Each slot holds one vector step: one row for each of the N environments.

    Observations are stored on `device`. The other columns take a few bytes per row and are read a
    few values at a time to decide which rows can be sampled. They are NumPy arrays on the host,
    because small operations are three times as fast in NumPy as in PyTorch and never wait for a
    device.

    A flat position identifies a row by one number: environment `env` in slot `slot` is at flat
    position `slot * N + env`, which equals the row's number modulo `slots * N`.

    Args:
        slots: Number of vector steps, including the pending one (actions not known yet).
        num_envs: Number of environments N.
        obs_shape: Shape of one observation.
        obs_dtype: Dtype of the observations; they are stored without conversion.
        device: Device on which observations are stored.

    Attributes:
        slot_bytes: Size of one slot in bytes.
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
        """Return the memory in bytes that `capacity` rows require, without allocating it."""
        others = sum(np.dtype(dtype).itemsize for dtype in _LAYOUT.values())
        return capacity * (int(np.prod(obs_shape)) * obs_dtype.itemsize + others)

    def write(self, slot: int, **values: Any) -> None:
        """Write values [N, …], one per environment, to the named columns at a slot."""
        for name, value in values.items():
            if name in self._arrays:
                self._arrays[name][slot] = value
            else:
                self._obs[slot] = torch.as_tensor(value)

    def read(self, slots: range) -> dict[str, Tensor]:
        """Return a copy of T consecutive slots in host memory, as columns [T, N, …]."""
        return {
            name: column[slots.start : slots.stop].to("cpu", copy=True)
            for name, column in self._columns.items()
        }

    def write_slots(self, slot: int, columns: dict[str, Tensor]) -> None:
        """Write columns [T, N, …] to T consecutive slots, starting at `slot`."""
        for name, rows in columns.items():
            self._columns[name][slot : slot + len(rows)] = rows

    def values_at(self, name: str, slot: int) -> NDArray[Any]:
        """Return a view of the values [N, …] of a column at a slot."""
        values: NDArray[Any] = self._arrays[name][slot]
        return values

    def obs_at(self, slot: int) -> Observations:
        """Return a view of the observations [N, …] at a slot."""
        return self._arrays["obs"][slot] if self._is_on_host else self._obs[slot]

    def gather(self, name: str, position: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of a column's values at flat positions, in the shape of `position`."""
        return self._flat[name].take(position)

    def gather_obs(self, position: NDArray[np.int64]) -> Tensor:
        """Return a copy of the observations [B, …] at flat positions [B]."""
        if self._is_on_host:
            return torch.from_numpy(self._flat["obs"].take(position, axis=0))
        return self._flat_obs.index_select(0, self.to_device(position))

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """Return the array as a tensor on the device where observations are stored."""
        tensor = torch.from_numpy(array)
        return tensor if self._is_on_host else tensor.to(self._obs.device, non_blocking=True)
