"""What the processes that train together, the ranks, tell each other.

All ranks must call such a function, at the same place of the run. Where there is one process, it
talks to nobody and gives back what it was given.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def count() -> int:
    """Number of ranks."""
    return dist.get_world_size() if _several() else 1


def own() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if _several() else 0


def mean(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means over ranks of tensors of one device, equal on all ranks, in one collective."""
    if not _several():
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    mean_(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view_as(t).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]


def mean_(tensor: Tensor) -> None:
    """Put the mean over ranks in the place of a tensor, equal on all ranks."""
    if _several():
        dist.all_reduce(tensor)
        tensor /= count()


def total(*values: int) -> list[int]:
    """The sums over ranks."""
    if not _several():
        return list(values)
    sums = torch.tensor(values, device=_device())
    dist.all_reduce(sums)
    return list(map(int, sums))


def greatest(value: int) -> int:
    """The greatest of all ranks' values."""
    return int(max(gather(value)))


def least(value: float) -> float:
    """The least of all ranks' values."""
    if not _several():
        return float(value)
    shared = torch.tensor(float(value), dtype=torch.float64, device=_device())
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return float(shared)


def of_first(value: int) -> int:
    """What rank 0 gave."""
    if not _several():
        return int(value)
    shared = torch.tensor(int(value), device=_device())
    dist.broadcast(shared, 0)
    return int(shared)


def gather(value: Any) -> list[Any]:
    """What each rank gave, in their order; made of plain values."""
    if not _several():
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def copy_first(tensors: Iterable[Tensor]) -> None:
    """Give all ranks' tensors the values of rank 0's, in place."""
    if _several():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _device() -> torch.device:
    """Where a collective's numbers must lie."""
    on_gpu = dist.get_backend() == dist.Backend.NCCL
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
