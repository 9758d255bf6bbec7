"""A run directory is locked while a process writes to it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqn_lightning.checkpointing import run_lock
from dqn_lightning.checkpointing.run_lock import RunLock
from dqn_lightning.errors import RunLockedError
from tests.helpers.processes import ROOT

# Locks without importing Lightning, forks a process that outlives it, and waits.
HOLD = """
import os, sys, time, types
utilities = sys.modules["lightning.pytorch.utilities"] = types.ModuleType("utilities")
utilities.rank_zero_warn = print
sys.path.insert(0, sys.argv[1])
package = sys.modules["dqn_lightning"] = types.ModuleType("dqn_lightning")
package.__path__ = [sys.argv[1] + "/dqn_lightning"]
from pathlib import Path
from dqn_lightning.checkpointing.run_lock import RunLock
lock = RunLock(Path.cwd())
if os.fork() == 0:
    lock.release()  # has no effect in another process
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the lock on the working directory, and has forked a worker."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(ROOT)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    yield holder
    os.kill(worker, signal.SIGKILL)
    holder.kill()
    holder.communicate()


@pytest.mark.processes
def test_the_error_names_the_directory_the_host_and_the_process(
    other_process: subprocess.Popen[str],
) -> None:
    holder = f"process {other_process.pid} on {socket.gethostname()}"
    with pytest.raises(RunLockedError, match=f"{Path.cwd()} is locked: {holder}"):
        RunLock(Path.cwd())


@pytest.mark.processes
def test_killing_the_process_releases_the_lock_although_its_worker_survives(
    other_process: subprocess.Popen[str],
) -> None:
    other_process.kill()
    other_process.wait()
    assert Path(".lock").exists()
    RunLock(Path.cwd()).release()
    assert not Path(".lock").exists()


def test_a_process_can_lock_a_directory_again_only_after_the_release(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    for _ in range(2):
        with pytest.raises(RunLockedError, match=f"process {os.getpid()}"):
            RunLock(tmp_path / ".." / tmp_path.name)
    lock.release()
    lock.release()
    RunLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_a_lock_file_that_is_deleted_while_it_is_locked_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, attempts = tmp_path / ".lock", []

    def delete_first(*_: object) -> None:  # as the holder does before it releases the lock
        attempts.append(path.stat().st_ino)
        if len(attempts) == 1:
            path.unlink()

    monkeypatch.setattr("fcntl.lockf", delete_first)
    lock = RunLock(tmp_path)
    assert len(attempts) == 2
    assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    lock.release()


@pytest.mark.parametrize("lease_s", [90, 200])
def test_a_lock_of_another_machine_is_awaited_for_two_minutes(
    lease_s: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def lock(*_: object) -> None:
        if len(waited) < lease_s:
            raise BlockingIOError(11, "Resource temporarily unavailable")

    (tmp_path / ".lock").write_text("process 7 on crashed")
    monkeypatch.setattr("fcntl.lockf", lock)
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(waited))
    if lease_s > 120:
        with pytest.raises(RunLockedError, match="process 7 on crashed"):
            RunLock(tmp_path)
    else:
        RunLock(tmp_path).release()
    assert sum(waited) == min(lease_s, 121)


@pytest.mark.parametrize("missing", ["platform", "file system"])
def test_without_record_locks_there_is_a_warning(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    if missing == "platform":
        monkeypatch.setattr(run_lock, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.lockf", fail)
    with pytest.warns(UserWarning, match=f"{tmp_path} is not locked"):
        lock = RunLock(tmp_path)
    lock.release()
