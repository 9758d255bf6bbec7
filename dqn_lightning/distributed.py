"""Collective operations between ranks, the processes that train together.

All ranks must call a collective at the same point of the run. In a single process, a collective
returns its input or leaves it unchanged.
"""

import atexit
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_distributed() -> bool:
    """Return whether more than one rank is training."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return the rank of this process, starting at 0."""
    return dist.get_rank() if is_distributed() else 0


def rank_seed(seed: int) -> int:
    """Return the seed for this rank: `seed` on rank 0, a seed derived from it on other ranks."""
    if rank() == 0:
        return seed
    return int(np.random.SeedSequence([seed, rank()]).generate_state(1)[0])


def all_reduce_mean(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the mean of each tensor over all ranks, computed with a single collective.

    Args:
        tensors: Tensors on one device, with the same shapes and in the same order on all ranks.
    """
    if not is_distributed():
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    all_reduce_mean_(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view_as(t).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]


def all_reduce_mean_(tensor: Tensor) -> None:
    """Average a tensor over all ranks, in place."""
    if is_distributed():
        dist.all_reduce(tensor)
        tensor /= world_size()


def all_reduce_sum(*values: int) -> list[int]:
    """Return the sum of each integer over all ranks."""
    if not is_distributed():
        return list(values)
    sums = torch.tensor(values, device=_device())
    dist.all_reduce(sums)
    return list(map(int, sums))


def all_reduce_max(value: int) -> int:
    """Return the maximum of an integer over all ranks."""
    if not is_distributed():
        return int(value)
    maximum = torch.tensor(int(value), device=_device())
    dist.all_reduce(maximum, dist.ReduceOp.MAX)
    return int(maximum)


def all_reduce_min(value: float) -> float:
    """Return the minimum of a number over all ranks."""
    if not is_distributed():
        return float(value)
    minimum = torch.tensor(float(value), dtype=torch.float64, device=_device())
    dist.all_reduce(minimum, dist.ReduceOp.MIN)
    return float(minimum)


def broadcast_value(value: int) -> int:
    """Return on every rank the value that was passed on rank 0."""
    if not is_distributed():
        return int(value)
    shared = torch.tensor(int(value), device=_device())
    dist.broadcast(shared, 0)
    return int(shared)


def random_id() -> str:
    """Return a random identifier that is the same on all ranks.

    It comes from the operating system, so no random generator of the run is advanced.
    """
    return f"{broadcast_value(secrets.randbits(63)):016x}"


def all_gather(value: Any) -> list[Any]:
    """Return the values passed on all ranks, ordered by rank.

    Args:
        value: A number, string, None, or a list, tuple or dictionary of these.
    """
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def raise_on_all_ranks(kind: type[Exception], problem: str | None) -> None:
    """Raise an error on all ranks if any rank has a problem, so that no rank waits for another.

    Args:
        kind: Class of the error.
        problem: Description of this rank's problem; None if there is none.
    """
    for number, text in enumerate(all_gather(problem)):
        if text is not None:
            raise kind(text if number == 0 else f"{text} (rank {number})")


def from_rank_zero(function: Callable[[], T]) -> T:
    """Call a function on rank 0 only; return its result, or raise its error, on all ranks.

    Args:
        function: Function whose result or error can be pickled.
    """
    outcome: tuple[Any, Exception | None] = None, None
    if rank() == 0:
        try:
            outcome = function(), None
        except Exception as error:
            outcome = None, error
    result: T
    result, failure = all_gather(outcome)[0]
    if failure is not None:
        raise failure
    return result


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Copy the values of rank 0's tensors into the tensors of all other ranks."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@contextmanager
def values_of_rank_zero(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Set the tensors to rank 0's values in a `with` block, then restore each rank's own values."""
    tensors = list(tensors) if is_distributed() else []
    own_values = [tensor.clone() for tensor in tensors]
    broadcast_tensors(tensors)
    yield
    for tensor, value in zip(tensors, own_values, strict=True):
        tensor.copy_(value)


@atexit.register
def destroy_process_group() -> None:
    """Destroy the process group, if there is one; called when the interpreter exits.

    A thread of a gloo group may be the last to release a tensor, for which it needs the
    interpreter. If the interpreter is being finalized at that time, the process aborts. Lightning
    destroys groups of the backend nccl only.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    """Return the device that the backend's collectives require."""
    on_gpu = dist.get_backend() == dist.Backend.NCCL
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
