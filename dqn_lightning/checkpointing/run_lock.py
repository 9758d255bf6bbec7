"""Lock that prevents two processes from writing to the same run directory."""

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from dqn_lightning.errors import RunLockedError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FILE = ".lock"
_LEASE_S = 120.0
_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)
_held: set[tuple[int, Path]] = set()  # process ids and directories


class RunLock:
    """Lock on a run directory, held from construction until `release` or the end of the process.

    The lock is a POSIX record lock (`fcntl.lockf`) on the file `.lock` in the directory. The
    operating system releases it when the process ends for any reason. Forked processes do not
    inherit it, so environment workers that outlive a killed run do not keep its directory locked.
    A record lock does not exclude other locks of the same process, so these are tracked separately.

    A lock of another machine is awaited for two minutes, because a file server releases the locks
    of a machine that has crashed only after their lease, usually 90 seconds.

    If the platform or the file system does not support record locks, a warning is issued and the
    directory is not locked.

    Args:
        directory: Existing directory to lock.

    Raises:
        RunLockedError: If another process, or another fit of this process, holds the lock.
        OSError: If the lock file cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = os.getpid(), directory.resolve()
        self._file: Any = None
        if self._key in _held:  # opening and closing the file again would release the lock
            raise RunLockedError(_describe(directory, _this_process()))
        if fcntl is None:
            rank_zero_warn(f"{directory} is not locked, because this platform has no record locks")
        else:
            self._file = _open_locked(directory, time.monotonic() + _LEASE_S)
        _held.add(self._key)

    def release(self) -> None:
        """Delete the lock file and release the lock; calling this method again has no effect."""
        if self._key not in _held or os.getpid() != self._key[0]:
            return
        _held.remove(self._key)
        if self._file is not None:
            (self._directory / _FILE).unlink(missing_ok=True)  # before it is unlocked
            self._file.close()


def _open_locked(directory: Path, deadline: float) -> Any:
    """Return the locked lock file, or None if the file system does not support record locks.

    Args:
        directory: Directory to lock.
        deadline: Time until which to wait for a lock of another machine.
    """
    while True:
        file = (directory / _FILE).open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            if error.errno not in _HELD_BY_ANOTHER:
                rank_zero_warn(f"{directory} is not locked: {error.strerror}; use one process only")
                return None
            if holder.endswith(f" on {socket.gethostname()}") or time.monotonic() > deadline:
                raise RunLockedError(_describe(directory, holder)) from None
            time.sleep(1.0)
            continue
        if _is_current(file, directory / _FILE):
            file.truncate(0)
            file.write(_this_process())
            file.flush()
            return file
        file.close()  # the process that held the lock has deleted the file in the meantime


def _is_current(file: Any, path: Path) -> bool:
    """Return whether an open file is still the file at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _describe(directory: Path, holder: str) -> str:
    return (
        f"{directory} is locked: {holder} is writing to it (if its machine has crashed, delete "
        f"{directory / _FILE})"
    )
