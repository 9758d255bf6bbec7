"""Data structures for sampling positions with probabilities proportional to stored values.

`SumTree` is for the CPU and `PrefixSums` for a GPU. Both store one non-negative value, called a
leaf, for each position of the replay's ring buffer. They sum the leaves in a fixed order, so the
sampled positions depend on the leaves but not on the order in which the leaves were set. The state
to save therefore consists of the leaves and the largest value ever set.
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FAN_OUT = 16
"""Number of children of a node of `SumTree`."""
_TOP = 4096
"""Maximum number of nodes in the top level. Summing all of them is as fast as another level."""
_BEFORE = np.tri(_FAN_OUT + 1, _FAN_OUT, -1).T.copy()
"""Matrix that maps numbers [B, 16] to their prefix sums [B, 17]; five times as fast as `cumsum`."""
_BLOCK = 1024
"""Number of leaves that `PrefixSums` sums as one block."""


class Priorities(Protocol):
    """Interface for data structures that sample positions in proportion to values (leaves).

    Each position has one non-negative leaf. Arguments and results of type `Any` are NumPy arrays or
    tensors, depending on what `to_array` returns.

    Attributes:
        max_value: Largest value ever set, or the initial value if that is larger.
    """

    max_value: Any

    def to_array(self, values: Any) -> Any:
        """Convert values to the array type and device of the leaves."""
        ...

    def get(self, positions: Any) -> Any:
        """Return the leaves at positions [B] as float64 values [B]."""
        ...

    def set(self, positions: Any, values: Any, where: Any = None) -> None:
        """Set the leaves at the given positions.

        Args:
            positions: Positions [B]. A position that occurs more than once is set to the largest of
                its values.
            values: New values [B].
            where: Mask [B] of the values to set; all values are set if None.
        """
        ...

    def find(self, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the positions at which the prefix sum first exceeds fractions of the total.

        The leaves at these positions are always positive, regardless of rounding errors. If all
        leaves are 0, every position returned is 0.

        Args:
            fractions: Fractions [B] of the sum of all leaves, in [0, 1].

        Returns:
            Positions [B].
        """
        ...

    def probabilities(
        self, positions: NDArray[np.int64], uniform_share: float
    ) -> NDArray[np.float64]:
        """Return the sampling probabilities [B] of the given positions [B].

        The probabilities are 0 or NaN if all leaves are 0, and NaN if a leaf is not finite.

        Args:
            positions: Positions [B] of positive leaves.
            uniform_share: Fraction of samples drawn uniformly from the positive leaves.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the leaves and `max_value`, in a format that every implementation can load."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the leaves and `max_value`."""
        ...


class SumTree:
    """Sum tree for the CPU with 16 children per node.

    The value of a node is the sum of its children, recomputed whenever a child changes. A NumPy
    operation takes about a microsecond whether it processes two numbers or a hundred, so a wide
    tree with few levels is faster than a binary tree.

    >>> tree = SumTree(4)
    >>> tree.set(np.arange(4), np.array([1.0, 0.0, 2.0, 1.0]))
    >>> tree.total, tree.num_positive, tree.find(np.array([0.0, 0.25, 0.75, 1.0])).tolist()
    (4.0, 3, [0, 2, 3, 3])

    Args:
        capacity: Number of leaves, initially 0.
        initial_max: Initial value of `max_value`.

    Attributes:
        num_positive: Number of positive leaves.
        max_value: Largest value ever set, or the initial value if that is larger.
    """

    def __init__(self, capacity: int, initial_max: float = 0.0) -> None:
        self.capacity = capacity
        self.num_positive = 0
        self.max_value = initial_max
        depth = 0
        while capacity > _TOP * _FAN_OUT**depth:
            depth += 1
        size = -(-capacity // _FAN_OUT**depth)  # of the top level; all levels below it are full
        self._top = np.zeros(size)
        self._blocks: list[NDArray[np.float64]] = []  # leaves first; each [parents, 16]
        for _ in range(depth):
            self._blocks.insert(0, np.zeros((size, _FAN_OUT)))
            size *= _FAN_OUT
        self._levels = [*(blocks.reshape(-1) for blocks in self._blocks), self._top]
        self._leaves = self._levels[0]

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._top.sum())

    def to_array(self, values: Any) -> Any:
        """Convert values to a NumPy array; floating-point values become float64."""
        if isinstance(values, Tensor):
            return (values.double() if values.is_floating_point() else values).numpy(force=True)
        array = np.asarray(values)
        return array.astype(np.float64, copy=False) if array.dtype.kind == "f" else array

    def get(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the leaves at positions [B]."""
        return self._leaves.take(positions)

    def set(
        self,
        positions: NDArray[np.int64],
        values: NDArray[np.float64],
        where: NDArray[np.bool_] | None = None,
    ) -> None:
        """Set the leaves at positions [B] to values [B], where the mask [B] is true.

        A position that occurs more than once is set to the largest of its values.
        """
        if where is not None and np.count_nonzero(where) < len(where):
            positions, values = positions[where], values[where]
        if not len(positions):
            return
        was_positive = self._leaves.take(positions) > 0
        self._leaves[positions] = 0
        with np.errstate(invalid="ignore"):  # `probabilities` reports non-finite leaves
            np.maximum.at(self._leaves, positions, values)
        changed = positions[(self._leaves.take(positions) > 0) != was_positive]
        if len(changed):
            changed = np.unique(changed)
            num_filled = int(np.count_nonzero(self._leaves.take(changed)))
            self.num_positive += 2 * num_filled - len(changed)
        self.max_value = max(self.max_value, float(values.max()))
        nodes = positions
        for blocks, parents in zip(self._blocks, self._levels[1:], strict=True):
            nodes = nodes // _FAN_OUT
            parents[nodes] = blocks.take(nodes, axis=0).sum(1)

    def find(self, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the positions [B] at which the prefix sum first exceeds fractions of the total.

        The leaves at these positions are always positive, unless all leaves are 0.

        Args:
            fractions: Fractions [B] of the sum of all leaves, in [0, 1].
        """
        running = np.zeros(len(self._top) + 1)
        np.cumsum(self._top, out=running[1:])
        if not 0 < running[-1] < np.inf:
            return np.zeros(len(fractions), np.int64)
        mass = fractions * running[-1]
        nodes: NDArray[np.int64] = running[1:-1].searchsorted(mass, side="right")
        mass -= running.take(nodes)
        first = np.arange(0, len(fractions) * (_FAN_OUT + 1), _FAN_OUT + 1)
        for blocks in reversed(self._blocks):
            sums = blocks.take(nodes, axis=0) @ _BEFORE  # [B, 17]
            is_beyond = sums[:, 1:] > mass[:, None]
            is_beyond[:, -1] = True  # even if a rounding error puts the mass beyond the last child
            child = is_beyond.argmax(1)
            mass -= sums.take(first + child)
            nodes = nodes * _FAN_OUT + child
        if np.count_nonzero(self._leaves.take(nodes)) < len(nodes):
            return self._find_slowly(fractions)
        return nodes

    def _find_slowly(self, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Search the prefix sums of all leaves; same argument and result as `find`.

        This is needed in the rare case that a rounding error leads `find` to a leaf of 0. Prefix
        sums increase only at positive leaves, so the leaf at which the prefix sum first exceeds a
        value is always positive.
        """
        running = self._leaves.cumsum()
        mass = np.minimum(fractions * running[-1], np.nextafter(running[-1], 0))
        found: NDArray[np.int64] = running.searchsorted(mass, side="right")
        return found

    def probabilities(
        self, positions: NDArray[np.int64], uniform_share: float
    ) -> NDArray[np.float64]:
        """Return the sampling probabilities [B] of the given positions [B].

        A fraction `uniform_share` of samples is drawn uniformly from the positive leaves.
        """
        total = self.total
        if not 0 < total < np.inf:
            return np.full(len(positions), 0.0 if total == 0 else np.nan)
        probability = self.get(positions) / total
        if uniform_share:
            probability *= 1 - uniform_share
            probability += uniform_share / self.num_positive
        return probability

    def state_dict(self) -> dict[str, Any]:
        """Return the leaves and `max_value`."""
        leaves = torch.from_numpy(self._leaves[: self.capacity].copy())
        return {"leaves": leaves, "max_value": self.max_value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the leaves and `max_value`, and recompute all sums."""
        self._leaves[: self.capacity] = state["leaves"].numpy()
        self.num_positive = int(np.count_nonzero(self._leaves))
        self.max_value = state["max_value"]
        for blocks, parents in zip(self._blocks, self._levels[1:], strict=True):
            parents[:] = blocks.sum(1)


class PrefixSums:
    """Equivalent of `SumTree` for a GPU; every search recomputes the prefix sums of all leaves.

    On a GPU, summing a million leaves takes as long as updating a few levels of a tree. Setting
    leaves does not wait for the GPU. The leaves are summed in blocks, because PyTorch's `cumsum` of
    a single row is not deterministic on a GPU.

    Args:
        capacity: Number of leaves, initially 0.
        initial_max: Initial value of `max_value`.
        device: Device on which the leaves are stored.

    Attributes:
        max_value: Largest value ever set, or the initial value if that is larger, as a scalar
            tensor.
    """

    def __init__(
        self, capacity: int, initial_max: float = 0.0, device: torch.device | str = "cpu"
    ) -> None:
        self.capacity = capacity
        self.device = torch.device(device)
        self.max_value = torch.tensor(initial_max, dtype=torch.float64, device=device)
        num_blocks = capacity // _BLOCK + 1  # at least one extra leaf, for masked values
        self._blocks = torch.zeros(num_blocks, _BLOCK, dtype=torch.float64, device=device)
        self._leaves = self._blocks.view(-1)

    @property
    def total(self) -> Tensor:
        """Sum of all leaves, as a scalar tensor."""
        return self._blocks.sum(1).sum()

    @property
    def num_positive(self) -> Tensor:
        """Number of positive leaves, as a scalar tensor."""
        return (self._leaves > 0).sum()

    def to_array(self, values: Any) -> Tensor:
        """Convert values to a tensor on `device`; floating-point values become float64."""
        tensor = torch.as_tensor(values, device=self.device)
        return tensor.double() if tensor.is_floating_point() else tensor

    def get(self, positions: Tensor) -> Tensor:
        """Return the leaves at positions [B]."""
        return self._leaves[positions]

    def set(self, positions: Tensor, values: Tensor, where: Tensor | None = None) -> None:
        """Set the leaves at positions [B] to values [B], where the mask [B] is true.

        A position that occurs more than once is set to the largest of its values.
        """
        if not len(positions):
            return
        if where is not None:
            positions = positions.where(where, self.capacity)
            values = values.where(where, 0.0)
        self._leaves.index_fill_(0, positions, 0.0)
        self._leaves.scatter_reduce_(0, positions, values, "amax")
        self._leaves[self.capacity] = 0.0
        self.max_value = torch.maximum(self.max_value, values.max())

    def find(self, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the positions [B] at which the prefix sum first exceeds fractions of the total.

        The leaves at these positions are always positive, unless all leaves are 0.

        Args:
            fractions: Fractions [B] of the sum of all leaves, in [0, 1].
        """
        zero = self._leaves.new_zeros(())
        running = self._blocks.sum(1).expand(2, -1).cumsum(1)[0]
        mass = torch.minimum(self.to_array(fractions) * running[-1], running[-1].nextafter(zero))
        block = torch.searchsorted(running, mass, right=True)
        is_any = running[-1] > 0
        block *= is_any
        mass -= torch.nn.functional.pad(running, (1, 0))[block]
        running = self._blocks[block].cumsum(1)  # [B, leaves of a block]
        mass = torch.minimum(mass, running[:, -1].nextafter(zero))
        leaf = torch.searchsorted(running, mass[:, None], right=True)[:, 0]
        return ((block * _BLOCK + leaf) * is_any).numpy(force=True)  # host-device sync

    def probabilities(
        self, positions: NDArray[np.int64], uniform_share: float
    ) -> NDArray[np.float64]:
        """Return the sampling probabilities [B] of the given positions [B].

        A fraction `uniform_share` of samples is drawn uniformly from the positive leaves.
        """
        probability = self.get(self.to_array(positions)) / self.total
        if uniform_share:
            probability = (1 - uniform_share) * probability + uniform_share / self.num_positive
        return probability.numpy(force=True)  # host-device sync

    def state_dict(self) -> dict[str, Any]:
        """Return the leaves and `max_value`."""
        leaves = self._leaves[: self.capacity].to("cpu", copy=True)
        return {"leaves": leaves, "max_value": float(self.max_value)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the leaves and `max_value`."""
        self._leaves[: self.capacity] = state["leaves"]
        self.max_value.fill_(state["max_value"])
