from pathlib import Path

import pytest
import torch

from dqn_lightning import ConfigError, distributed
from dqn_lightning.replay import ReplayBuffer, memory
from dqn_lightning.replay.memory import ReplaySize, check_memory, free_host_bytes
from dqn_lightning.replay.samplers import Prioritized
from tests.helpers.settings import make_datamodule

CPU = torch.device("cpu")


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 9000 kB\nMemAvailable:    1000 kB\n"


def test_free_memory_is_the_memory_available_without_control_groups(tmp_path: Path) -> None:
    assert free_host_bytes(write(tmp_path, proc__meminfo=MEMINFO)) == 1_024_000


def test_free_memory_is_unknown_without_proc(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path) is None
    check_memory(ReplaySize(0, 0), 1, CPU)


def test_the_limit_of_a_control_group_or_its_parent_counts(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/jobs/job_7\n")
    jobs = write(tmp_path / "sys/fs/cgroup/jobs", **{"memory.max": "900000\n"})
    write(jobs, **{"memory.current": "300000\n", "memory.stat": "anon 5\ninactive_file 100000\n"})
    write(jobs / "job_7", **{"memory.max": "max\n", "memory.current": "100\n"})
    assert free_host_bytes(tmp_path) == 700_000
    write(jobs / "job_7", **{"memory.max": "1100\n"})
    assert free_host_bytes(tmp_path) == 1_000


def test_control_groups_of_version_1_are_read(tmp_path: Path) -> None:
    lines = "9:name=systemd:/\n4:cpu,memory:/docker/of_the_host\n1:cpu:/\n0::/\n"
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup=lines)
    group = tmp_path / "sys/fs/cgroup/memory"  # a container sees only its own group
    write(group, **{"memory.limit_in_bytes": "5000\n", "memory.usage_in_bytes": "2000\n"})
    assert free_host_bytes(tmp_path) == 3_000
    write(group, **{"memory.usage_in_bytes": "6000\n"})
    assert free_host_bytes(tmp_path) == 0


def test_the_size_includes_observations_other_columns_and_priorities() -> None:
    capacity, shape = 4_096, (3, 5)
    replay = ReplayBuffer(capacity, 2, shape, torch.float32, sampler=Prioritized())
    replay.sampler.reset(capacity, CPU)  # type: ignore[attr-defined]
    columns = sum(array.nbytes for array in replay._storage._arrays.values())
    tree = sum(level.nbytes for level in replay.sampler._priorities._levels)  # type: ignore[attr-defined]
    size = ReplaySize.of(capacity, shape, torch.float32, has_priorities=True, on_gpu=False)
    assert columns + tree <= size.host <= 1.02 * (columns + tree)
    on_gpu = ReplaySize.of(capacity, shape, torch.float32, has_priorities=True, on_gpu=True)
    assert sum(on_gpu) == size.host
    assert on_gpu.host == columns - capacity * 60


def test_a_replay_that_does_not_fit_is_refused_before_it_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 2_700_000)
    monkeypatch.setattr(ReplayBuffer, "__init__", lambda *_, **__: pytest.fail("allocated"))
    data = make_datamodule("CartPole-v1", capacity=200_000)
    words = (
        r"data\.replay\.capacity: 200,000 rows need 7 MB of memory, but 2\.7 MB are free; "
        r"use at most 77,142$"
    )
    with pytest.raises(ConfigError, match=words):
        data.collectors.training(CPU, 0, data.progress)


def test_the_replays_of_all_ranks_of_a_machine_must_fit_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gather(*free: int | None, machines: str = "aab") -> None:
        ranks = [[name, value, "cpu", None] for name, value in zip(machines, free, strict=True)]
        monkeypatch.setattr(distributed, "all_gather", lambda _: ranks)

    size = ReplaySize(100, 0)
    gather(200, 200, 100)
    check_memory(size, 10, CPU)
    gather(None, None, 100)
    check_memory(size, 10, CPU)
    gather(199, 200, 100)
    words = "10 rows need 200 B of memory for 2 ranks, but 199 B are free; use at most 9$"
    with pytest.raises(ConfigError, match=words):
        check_memory(size, 10, CPU)
    gather(200, 200, 99)
    with pytest.raises(ConfigError, match="10 rows need 100 B of memory, but 99 B are free"):
        check_memory(size, 10, CPU)


def test_a_replay_on_a_gpu_is_compared_with_the_free_memory_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (99, 1_000))
    with pytest.raises(ConfigError, match=r"GPU memory, but 99 B .*data\.replay\.device to cpu"):
        check_memory(ReplaySize(0, 100), 10, torch.device("cuda", 0))
