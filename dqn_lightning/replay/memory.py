"""Memory that a replay needs, and memory that is free on this machine."""

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from dqn_lightning import distributed
from dqn_lightning.errors import ConfigError
from dqn_lightning.replay.storage import Storage

_PRIORITY_BYTES = 9
"""Upper bound per row: a float64 leaf of the sum tree, and a share of the inner nodes."""

_CGROUP_2 = ("memory.max", "memory.current", "inactive_file")
_CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


class ReplaySize(NamedTuple):
    """Memory of one rank's replay in bytes.

    Attributes:
        host: Memory on the host.
        gpu: Memory on the GPU; 0 if observations are stored on the host.
    """

    host: int
    gpu: int

    @classmethod
    def of(
        cls,
        capacity: int,
        obs_shape: tuple[int, ...],
        obs_dtype: torch.dtype,
        has_priorities: bool,
        on_gpu: bool,
    ) -> "ReplaySize":
        """Return the memory for `capacity` rows: observations, other columns and priorities."""
        total = Storage.num_bytes(capacity, obs_shape, obs_dtype)
        columns = Storage.num_bytes(capacity, (0,), obs_dtype)
        with_obs = total - columns + (capacity * _PRIORITY_BYTES if has_priorities else 0)
        return cls(columns, with_obs) if on_gpu else cls(columns + with_obs, 0)


def check_memory(size: ReplaySize, capacity: int, device: torch.device) -> None:
    """Check on all ranks that the replays of all ranks on a machine fit into its free memory.

    This is a collective: no rank allocates its replay before all have measured the free memory.
    Memory whose free amount is unknown is not checked.

    Args:
        size: Memory of this rank's replay.
        capacity: Number of rows of this rank's replay.
        device: Device on which observations are stored.

    Raises:
        ConfigError: On all ranks, if the replay of any rank does not fit.
    """
    free_gpu = torch.cuda.mem_get_info(device)[0] if size.gpu else None
    own = [platform.node(), free_host_bytes(), str(device), free_gpu]
    ranks = distributed.all_gather(own)
    for machine, free_host, gpu, free_gpu in ranks:
        sharing = sum(other[0] == machine for other in ranks)
        _check(size.host, sharing, free_host, capacity, "memory", "")
        sharing = sum((other[0], other[2]) == (machine, gpu) for other in ranks)
        hint = ", or set data.replay.device to cpu"
        _check(size.gpu, sharing, free_gpu, capacity, "GPU memory", hint)


def _check(
    num_bytes: int, num_ranks: int, free: int | None, capacity: int, kind: str, hint: str
) -> None:
    needed = num_bytes * num_ranks
    if free is None or needed <= free:
        return
    ranks = f" for {num_ranks} ranks" if num_ranks > 1 else ""
    raise ConfigError(
        f"data.replay.capacity: {capacity:,} rows need {format_bytes(needed)} of {kind}{ranks}, "
        f"but {format_bytes(free)} are free; use at most {capacity * free // needed:,}{hint}"
    )


def free_host_bytes(root: Path = Path("/")) -> int | None:
    """Return how much memory this process can still allocate; None if unknown (not on Linux).

    The result is the smaller of the machine's available memory and the unused memory of the
    process's control groups (versions 1 and 2), which limit the memory of containers and jobs.
    File caches that the kernel can drop count as unused.

    Args:
        root: Root of the file system.
    """
    return min((*_available(root), *_unused_in_cgroups(root)), default=None)


def _available(root: Path) -> Iterator[int]:
    for line in _read_lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _unused_in_cgroups(root: Path) -> Iterator[int]:
    for line in _read_lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        if "memory" in controllers.split(","):
            mount, files = root / "sys/fs/cgroup/memory", _CGROUP_1
        elif not controllers:
            mount, files = root / "sys/fs/cgroup", _CGROUP_2
        else:
            continue
        group = mount / name.lstrip("/")
        # Limits of parents apply too. In a container, only the mount itself may be visible.
        for directory in (group, *group.parents):
            yield from _unused_in_cgroup(directory, *files)
            if directory == mount:
                break


def _unused_in_cgroup(directory: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    texts = [*_read_lines(directory / limit), *_read_lines(directory / usage)]
    if len(texts) == 2 and texts[0] != "max":
        statistics = dict(line.split() for line in _read_lines(directory / "memory.stat"))
        yield max(0, int(texts[0]) - int(texts[1]) + int(statistics.get(cache, 0)))


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def format_bytes(num_bytes: float) -> str:
    """Format a number of bytes with three significant digits and a unit.

    >>> format_bytes(7_060_000_000)
    '7.06 GB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
