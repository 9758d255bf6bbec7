"""Files that are written whole or not at all, and say when they are damaged.

Those of `save` are what `torch.save` writes, a zip archive, with a checksum of everything before it
in the archive's comment; so `torch.load` reads them as any other. No code in them is ever run.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from dqn_lightning.errors import ConfigError

_CHUNK = 2**20
_DIGEST = 64  # characters of a checksum
_COMMENT_LENGTH = _DIGEST.to_bytes(2, "little")
_END_BYTES = 22  # of an archive without a comment
_TEMPORARY = ".tmp"


def save(value: Any, folder: Path, name: str) -> str:
    """Write tensors and plain values as a file of that name; an older one is replaced at the end.

    Args:
        value: What to write.
        folder: Where.
        name: The file's name; `{digest}` in it becomes a part of the checksum.

    Returns:
        The name it got.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    unfinished = temporary(folder, name)
    try:
        torch.save(value, unfinished)
        return seal(unfinished, name)
    except (OSError, RuntimeError) as error:  # PyTorch raises the latter where the disk is full
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{folder / name} cannot be written: {error}") from error


def temporary(folder: Path, name: str) -> Path:
    """Where to write a file before it is sealed: in the same folder, under a name of its own."""
    return folder / f".{name}{_TEMPORARY}"


def seal(unfinished: Path, name: str) -> str:
    """Add the checksum to what `torch.save` wrote, bring it to disk and give it its name."""
    with unfinished.open("r+b") as file:
        digest = _digest(file, os.fstat(file.fileno()).st_size - 2)
        file.seek(-2, os.SEEK_END)  # length of the comment, which ends the archive
        file.write(_COMMENT_LENGTH + digest)
        file.flush()
        os.fsync(file.fileno())
    name = name.format(digest=digest[:12].decode())
    unfinished.replace(unfinished.with_name(name))
    _sync_folder(unfinished.parent)
    return name


def link(path: Path, name: str) -> None:
    """Give a file a second name in its folder; a copy where the system has no links."""
    unfinished = temporary(path.parent, name)
    unfinished.unlink(missing_ok=True)
    try:
        os.link(path, unfinished)
    except OSError:
        shutil.copyfile(path, unfinished)
    unfinished.replace(path.with_name(name))


def load(path: Path, what: str) -> Any:
    """The content, on the CPU.

    Args:
        path: The file.
        what: The flag or the file that leads to it, for messages.

    Raises:
        ConfigError: If it is not there, not whole, or holds more than tensors and plain values.
    """
    check(path, what)
    return read(path, what)


def read(path: Path, what: str) -> Any:
    """The content of a file that has been checked, on the CPU.

    Raises:
        ConfigError: If it holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it raises many kinds on files that are something else
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise ConfigError(
            f"{what}: {path} is no whole checkpoint ({type(error).__name__}: {reason})"
        ) from error


def check(path: Path, what: str) -> None:
    """Compare a file with its checksum; an archive that has none, as others write it, passes.

    Raises:
        ConfigError: If it cannot be read, is damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = _digest(file, max(size - _DIGEST - 2, 0))
            comment = file.read()
            file.seek(max(size - _END_BYTES, 0))
            foreign = _is_plain_end(file.read())
    except OSError as error:
        raise ConfigError(f"{what}: {path} cannot be read ({error.strerror})") from error
    if comment != _COMMENT_LENGTH + digest and not foreign:
        raise ConfigError(f"{what}: {path} is no whole checkpoint: it is damaged or cut short")


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove what a run that was killed while it wrote files of this name (a pattern) has left."""
    for path in folder.glob(f".{name}{_TEMPORARY}"):
        path.unlink()


def _is_plain_end(end: bytes) -> bool:
    """Whether these last bytes are those of an archive without a comment."""
    return end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0")


def _digest(file: Any, size: int) -> bytes:
    """Checksum of so many bytes from the start."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """Bring a new name to disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
