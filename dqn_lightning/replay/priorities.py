"""Sums of priorities: which position of the ring a share of the total falls on.

Both kinds hold one leaf for each position, a number >= 0, and draw a leaf in proportion to it. They
add in an order that is fixed by the leaves' places: what is found depends on the leaves alone, not
on how they came about, so leaves are all that has to be saved.
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FAN_OUT = 16
_TOP = 4096
"""Nodes at the top of a tree: so many are summed at once in no more time than by another level."""
_BEFORE = np.tri(_FAN_OUT + 1, _FAN_OUT, -1).T.copy()
"""Numbers [B, 16] times it are their running sums [B, 17]: a fifth of the time of `cumsum`."""
_BLOCK = 1024


class Priorities(Protocol):
    """Leaves, one for each position, and their sum. Numbers are numpy's arrays or tensors.

    Attributes:
        greatest: The greatest value that was ever set, or the first one given.
    """

    greatest: Any

    def array(self, values: Any) -> Any:
        """Numbers as arrays of the kind, and at the place, of the leaves."""
        ...

    def get(self, positions: Any) -> Any:
        """The leaves at these positions [B], float64."""
        ...

    def set(self, positions: Any, values: Any, where: Any = None) -> None:
        """Put values [B] at these positions [B], or at some of them: where a mask [B] is true.

        Of values for the same position the greatest counts.
        """
        ...

    def find(self, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        """Positions [B] at which the running sum passes these shares [B], in [0, 1], of the total.

        They are of leaves greater than 0, whatever is rounded; any where there are none.
        """
        ...

    def probability(
        self, positions: NDArray[np.int64], uniform_share: float
    ) -> NDArray[np.float64]:
        """Of these positions [B], if this share of them is drawn uniformly from leaves > 0.

        It is 0 (or NaN) if all leaves are 0, NaN if a leaf is not finite.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Leaves and the greatest value, as both kinds can load them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have these leaves."""
        ...


class SumTree:
    """Leaves on the host under a tree of sums, 16 children to a node.

    A node is the sum of its children in their order, made anew whenever one of them is set. A step
    of numpy costs a microsecond for two numbers and for a hundred: a wide tree takes few of them.

    >>> tree = SumTree(4)
    >>> tree.set(np.arange(4), np.array([1.0, 0.0, 2.0, 1.0]))
    >>> tree.total, tree.num_positive, tree.find(np.array([0.0, 0.25, 0.75, 1.0])).tolist()
    (4.0, 3, [0, 2, 3, 3])

    Args:
        capacity: Number of leaves, all 0 at first.
        first: What `greatest` is before anything is set.

    Attributes:
        num_positive: Number of leaves greater than 0.
        greatest: The greatest value that was ever set, or the first one given.
    """

    def __init__(self, capacity: int, first: float = 0.0) -> None:
        self.capacity = capacity
        self.num_positive = 0
        self.greatest = first
        depth = 0
        while capacity > _TOP * _FAN_OUT**depth:
            depth += 1
        size = -(-capacity // _FAN_OUT**depth)  # of the top; levels below it are full
        self._top = np.zeros(size)
        self._blocks: list[NDArray[np.float64]] = []  # leaves first, each [nodes above, 16]
        for _ in range(depth):
            self._blocks.insert(0, np.zeros((size, _FAN_OUT)))
            size *= _FAN_OUT
        self._levels = [*(blocks.reshape(-1) for blocks in self._blocks), self._top]
        self._leaves = self._levels[0]

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self._top.sum())

    def array(self, values: Any) -> Any:
        """As an array of numpy."""
        if isinstance(values, Tensor):
            return (values.double() if values.is_floating_point() else values).numpy(force=True)
        array = np.asarray(values)
        return array.astype(np.float64, copy=False) if array.dtype.kind == "f" else array

    def get(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """The leaves at these positions [B]."""
        return self._leaves.take(positions)

    def set(
        self,
        positions: NDArray[np.int64],
        values: NDArray[np.float64],
        where: NDArray[np.bool_] | None = None,
    ) -> None:
        """Put values [B] at these positions [B] where the mask [B] is true; the greatest counts."""
        if where is not None and np.count_nonzero(where) < len(where):
            positions, values = positions[where], values[where]
        if not len(positions):
            return
        was_positive = self._leaves.take(positions) > 0
        self._leaves[positions] = 0
        with np.errstate(invalid="ignore"):  # what is not finite is noticed at the next draw
            np.maximum.at(self._leaves, positions, values)
        changed = positions[(self._leaves.take(positions) > 0) != was_positive]
        if len(changed):
            changed = np.unique(changed)
            num_filled = int(np.count_nonzero(self._leaves.take(changed)))
            self.num_positive += 2 * num_filled - len(changed)
        self.greatest = max(self.greatest, float(values.max()))
        nodes = positions
        for blocks, parents in zip(self._blocks, self._levels[1:], strict=True):
            nodes = nodes // _FAN_OUT
            parents[nodes] = blocks.take(nodes, axis=0).sum(1)

    def find(self, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        """Positions [B] at which the running sum passes these shares [B] of the total.

        A mass that rounding has brought beyond the block that it is in stays at the block's end.
        """
        running = np.zeros(len(self._top) + 1)
        np.cumsum(self._top, out=running[1:])
        if not 0 < running[-1] < np.inf:
            return np.zeros(len(shares), np.int64)
        mass = shares * running[-1]
        nodes: NDArray[np.int64] = running[1:-1].searchsorted(mass, side="right")
        mass -= running.take(nodes)
        first = np.arange(0, len(shares) * (_FAN_OUT + 1), _FAN_OUT + 1)
        for blocks in reversed(self._blocks):
            sums = blocks.take(nodes, axis=0) @ _BEFORE  # [B, 17]
            is_beyond = sums[:, 1:] > mass[:, None]
            is_beyond[:, -1] = True
            child = is_beyond.argmax(1)
            mass -= sums.take(first + child)
            nodes = nodes * _FAN_OUT + child
        if np.count_nonzero(self._leaves.take(nodes)) < len(nodes):
            return self._find_slowly(shares)
        return nodes

    def _find_slowly(self, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        """The same by one running sum, where rounding led to an empty leaf: hardly ever.

        It grows at leaves greater than 0 only, so the first beyond a mass is at one of them.
        """
        running = self._leaves.cumsum()
        mass = np.minimum(shares * running[-1], np.nextafter(running[-1], 0))
        found: NDArray[np.int64] = running.searchsorted(mass, side="right")
        return found

    def probability(
        self, positions: NDArray[np.int64], uniform_share: float
    ) -> NDArray[np.float64]:
        """Of these positions [B], if this share of them is drawn uniformly from leaves > 0."""
        total = self.total
        if not 0 < total < np.inf:
            return np.full(len(positions), 0.0 if total == 0 else np.nan)
        probability = self.get(positions) / total
        if uniform_share:
            probability *= 1 - uniform_share
            probability += uniform_share / self.num_positive
        return probability

    def state_dict(self) -> dict[str, Any]:
        """Leaves and the greatest value."""
        leaves = torch.from_numpy(self._leaves[: self.capacity].copy())
        return {"leaves": leaves, "greatest": self.greatest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have these leaves, and all sums made anew."""
        self._leaves[: self.capacity] = state["leaves"].numpy()
        self.num_positive = int(np.count_nonzero(self._leaves))
        self.greatest = state["greatest"]
        for blocks, parents in zip(self._blocks, self._levels[1:], strict=True):
            parents[:] = blocks.sum(1)


class PrefixSums:
    """Leaves on a device, summed whenever something is to be found; nothing waits when they change.

    A GPU sums a million leaves in the time that a few levels of a tree take. They are summed in
    blocks: PyTorch's running sum of a single row is made in an order that differs from one time to
    the next, that of several rows is not.

    Args:
        capacity: Number of leaves, all 0 at first.
        first: What `greatest` is before anything is set.
        device: Where they lie.

    Attributes:
        greatest: The greatest value that was ever set, or the first one given; a tensor [].
    """

    def __init__(
        self, capacity: int, first: float = 0.0, device: torch.device | str = "cpu"
    ) -> None:
        self.capacity = capacity
        self.device = torch.device(device)
        self.greatest = torch.tensor(first, dtype=torch.float64, device=device)
        num_blocks = capacity // _BLOCK + 1  # there is a leaf more: for what is not to be set
        self._blocks = torch.zeros(num_blocks, _BLOCK, dtype=torch.float64, device=device)
        self._leaves = self._blocks.view(-1)

    @property
    def total(self) -> Tensor:
        """The sum of all leaves []."""
        return self._blocks.sum(1).sum()

    @property
    def num_positive(self) -> Tensor:
        """Number of leaves greater than 0 []."""
        return (self._leaves > 0).sum()

    def array(self, values: Any) -> Tensor:
        """As a tensor on the device."""
        tensor = torch.as_tensor(values, device=self.device)
        return tensor.double() if tensor.is_floating_point() else tensor

    def get(self, positions: Tensor) -> Tensor:
        """The leaves at these positions [B]."""
        return self._leaves[positions]

    def set(self, positions: Tensor, values: Tensor, where: Tensor | None = None) -> None:
        """Put values [B] at these positions [B] where the mask [B] is true; the greatest counts."""
        if not len(positions):
            return
        if where is not None:
            positions = positions.where(where, self.capacity)
            values = values.where(where, 0.0)
        self._leaves.index_fill_(0, positions, 0.0)
        self._leaves.scatter_reduce_(0, positions, values, "amax")
        self._leaves[self.capacity] = 0.0
        self.greatest = torch.maximum(self.greatest, values.max())

    def find(self, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        """Positions [B] at which the running sum passes these shares [B] of the total."""
        zero = self._leaves.new_zeros(())
        running = self._blocks.sum(1).expand(2, -1).cumsum(1)[0]
        mass = torch.minimum(self.array(shares) * running[-1], running[-1].nextafter(zero))
        block = torch.searchsorted(running, mass, right=True)
        is_any = running[-1] > 0
        block *= is_any
        mass -= torch.nn.functional.pad(running, (1, 0))[block]
        running = self._blocks[block].cumsum(1)  # [B, leaves of a block]
        mass = torch.minimum(mass, running[:, -1].nextafter(zero))
        leaf = torch.searchsorted(running, mass[:, None], right=True)[:, 0]
        return ((block * _BLOCK + leaf) * is_any).numpy(force=True)  # host-device sync

    def probability(
        self, positions: NDArray[np.int64], uniform_share: float
    ) -> NDArray[np.float64]:
        """Of these positions [B], if this share of them is drawn uniformly from leaves > 0."""
        probability = self.get(self.array(positions)) / self.total
        if uniform_share:
            probability = (1 - uniform_share) * probability + uniform_share / self.num_positive
        return probability.numpy(force=True)  # host-device sync

    def state_dict(self) -> dict[str, Any]:
        """Leaves and the greatest value."""
        leaves = self._leaves[: self.capacity].to("cpu", copy=True)
        return {"leaves": leaves, "greatest": float(self.greatest)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have these leaves."""
        self._leaves[: self.capacity] = state["leaves"]
        self.greatest.fill_(state["greatest"])
