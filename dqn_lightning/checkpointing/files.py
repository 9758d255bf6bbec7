"""Write files atomically, and check checkpoint files for damage before they are loaded.

Files written by `torch.save` are zip archives, which contain a CRC-32 checksum for each record. The
name of a file written by `save_with_digest` also contains the start of the file's SHA-256 digest.
Files are loaded with `weights_only=True`, which never executes code from a file. They may therefore
contain only tensors and plain values: None, booleans, numbers, strings, and containers of these.
"""

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from dqn_lightning.errors import ConfigError

_DIGEST_LENGTH = 12
_DIRECTORY_ATTRIBUTE = 0x10  # of MS-DOS, which zip archives use
_TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, for use in a `with` block that writes a file.

    If the block succeeds, the temporary file is renamed to `path`; otherwise, it is deleted.


    The file is synced to disk before it is renamed, so after a crash `path` contains either the
    complete old file or the complete new file. The temporary path has the same suffix as `path`,
    because some writers infer the file format from the suffix.
    """
    unfinished = temporary_path(path)
    try:
        yield unfinished
        finalize(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def finalize(unfinished: Path, path: Path) -> None:
    """Sync a temporary file to disk and rename it to `path`, replacing any existing file."""
    _sync(unfinished)
    unfinished.replace(path)
    _sync(path.parent)


def temporary_path(path: Path) -> Path:
    """Return the path of the hidden temporary file in which the content of `path` is prepared."""
    return path.with_name(f"{_TEMPORARY_PREFIX}{path.name}")


def remove_unfinished(directory: Path, pattern: str) -> None:
    """Delete temporary files left behind by a killed process.

    Args:
        directory: Directory to search.
        pattern: Glob pattern for the final file names.
    """
    for path in directory.glob(f"{_TEMPORARY_PREFIX}{pattern}"):
        path.unlink()


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents, and sync the new entries to disk."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        _sync(directory.parent)


def save(value: Any, path: Path) -> None:
    """Write tensors and plain values to a file atomically.

    Raises:
        OSError: If the file cannot be written; an existing file is then kept.
    """
    content = _serialize(value)
    with _named_in_errors(path), atomic_write(path) as unfinished:
        unfinished.write_bytes(content)


def save_with_digest(value: Any, directory: Path, prefix: str) -> str:
    """Write tensors and plain values atomically to a file whose name ends in a SHA-256 digest.

    Args:
        value: Value to write.
        directory: Existing directory in which the file is created.
        prefix: Start of the file name.

    Returns:
        The file name, `<prefix>-<digest>.pt`. The digest of the file's content is shortened to 12
        hexadecimal digits.

    Raises:
        OSError: If the file cannot be written.
    """
    content = _serialize(value)
    path = directory / f"{prefix}-{_digest(content)}.pt"
    with _named_in_errors(path), atomic_write(path) as unfinished:
        unfinished.write_bytes(content)
    return path.name


def link(path: Path, name: str) -> None:
    """Create a hard link next to a file, or a copy if hard links are not supported.

    Args:
        path: Existing file.
        name: File name of the link; a file that already has this name is replaced.
    """
    linked = path.with_name(name)
    unfinished = temporary_path(linked)
    unfinished.unlink(missing_ok=True)
    try:
        os.link(path, unfinished)
    except OSError:
        shutil.copyfile(path, unfinished)
    finalize(unfinished, linked)
    unfinished.unlink(missing_ok=True)  # renaming does nothing if both are links to the same file


def load(path: Path, source: str) -> Any:
    """Check a checkpoint file for damage and return its content, with tensors on the CPU.

    Args:
        path: File to read.
        source: Flag or file that refers to `path`, for error messages.

    Raises:
        ConfigError: If the file is missing, corrupt or truncated, or contains anything other than
            tensors and plain values.
    """
    check_records(path, source)
    return read(path, source)


def load_with_digest(path: Path, source: str) -> Any:
    """Check a file written by `save_with_digest`; return its content, with tensors on the CPU.

    Args:
        path: File to read.
        source: Flag or file that refers to `path`, for error messages.

    Raises:
        ConfigError: If the file is missing, corrupt or truncated, or contains anything other than
            tensors and plain values.
    """
    check_digest(path, source)
    return read(path, source)


def read(path: Path, source: str) -> Any:
    """Return the content of a file that was already checked, with tensors on the CPU.

    Args:
        path: File to read.
        source: Flag or file that refers to `path`, for error messages.

    Raises:
        ConfigError: If the file cannot be loaded, for example because it contains anything other
            than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its message advises to load the file unsafely
        raise ConfigError(
            f"{source}: {path} contains objects other than tensors and plain values, which are not "
            "loaded, because they could run code"
        ) from error
    except Exception as error:  # torch.load raises many types of errors for unreadable files
        raise _corrupt(path, source, type(error).__name__) from error


def check_records(path: Path, source: str) -> None:
    """Check that each record of a checkpoint file matches the CRC-32 checksum of the record.

    Args:
        path: File to check.
        source: Flag or file that refers to `path`, for error messages.

    Raises:
        ConfigError: If the file is missing, corrupt or truncated.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, source, error) from error
    try:
        with file, zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            directories = [r.filename for r in archive.infolist() if _is_directory(r)]
    except Exception as error:  # zipfile raises many types of errors for damaged archives
        raise _corrupt(path, source, str(error) or type(error).__name__) from error
    if damaged is not None:
        raise _corrupt(path, source, f"wrong checksum of {damaged}")
    if directories:
        raise _corrupt(path, source, f"{directories[0]} is marked as a directory")


def _is_directory(record: zipfile.ZipInfo) -> bool:
    """Return whether PyTorch's zip reader (miniz) would treat a record as a directory.

    PyTorch reads no data for a directory, so the record's tensor would contain uninitialized
    memory. The checksum of a record does not cover the attribute that marks a directory.
    """
    return record.is_dir() or bool(record.external_attr & _DIRECTORY_ATTRIBUTE)


def check_digest(path: Path, source: str) -> None:
    """Check that the content of a file matches the digest in the file name.

    Args:
        path: File to check.
        source: Flag or file that refers to `path`, for error messages.

    Raises:
        ConfigError: If the file is missing, corrupt or truncated.
    """
    try:
        digest = _digest(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, source, error) from error
    if not path.stem.endswith(f"-{digest}"):
        raise _corrupt(path, source, "its content is not what was saved under this name")


def check_output(flag: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check the path of an output file; commands call this before they do any other work.

    Args:
        flag: Flag that specifies the file, for error messages.
        path: File to write.
        suffixes: Supported file name suffixes, such as `.png`.

    Raises:
        ConfigError: If the suffix is not supported, the path is a directory, or its parent
            directory does not exist.
    """
    if path.suffix not in suffixes:
        *others, last = suffixes
        supported = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"{flag}: {path} must end in {supported}")
    if path.is_dir():
        raise ConfigError(f"{flag}: {path} cannot be written: it is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"{flag}: {path} cannot be written: there is no directory {path.parent}")


def _serialize(value: Any) -> memoryview:
    """Return the content of a file; `torch.save` itself would report a full disk unclearly."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getbuffer()


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]


def _unreadable(path: Path, source: str, error: OSError) -> ConfigError:
    return ConfigError(f"{source}: {path} cannot be read ({error.strerror or error})")


def _corrupt(path: Path, source: str, reason: str) -> ConfigError:
    return ConfigError(f"{source}: {path} is corrupt or truncated ({reason.splitlines()[0]})")


def _sync(path: Path) -> None:
    """Flush the content of a file, or the entries of a directory, to disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open directories
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
