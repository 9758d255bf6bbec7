"""Files that commands are asked to write."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dqn_lightning.errors import ConfigError


def check_output(flag: str, path: Path, suffixes: Sequence[str]) -> None:
    """See whether a file can be written there, before it is made.

    Args:
        flag: That names it, for messages.
        path: The file.
        suffixes: Those it may have.

    Raises:
        ConfigError: If the suffix is another, the folder missing, or itself a folder.
    """
    if path.suffix not in suffixes:
        *others, last = suffixes
        known = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"{flag}: {path} must end in {known}")
    if path.is_dir() or not path.parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ConfigError(f"{flag}: {path} cannot be written: {why}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives the name to write a file under, which gets its own when the block ends without error.

    An older one is replaced then; after an error nothing is left behind.
    """
    unfinished = path.with_name(f".tmp-{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
