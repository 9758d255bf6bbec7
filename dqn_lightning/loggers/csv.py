"""Logger that writes the metrics of a run to CSV files."""

import csv
import hashlib
import io
import math
import os
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from dqn_lightning.errors import ConfigError

TIME_PREFIX = "time/"
"""Prefix of metrics that depend on wall-clock time, and therefore on the machine."""


class CSVLogger(Logger):
    """Logger that writes metrics to `metrics.csv`, and `time/…` metrics to `timing.csv`.

    Both tables have a column `env_steps` and one column per metric. A cell is empty if the metric
    was not logged at that step. Rows are appended; a file is rewritten only to add a column. Each
    row is flushed at once, so that other programs can follow the run, unless more than 20 rows per
    second are logged.

    Lightning's CSVLogger supports only a single table, and deletes an existing table in its
    directory.

    Args:
        directory: Directory of the run. It must exist when the first value is logged.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._tables = {name: _Table(directory / f"{name}.csv") for name in ("metrics", "timing")}

    @property
    def name(self) -> str:
        """Empty string, because every run has its own directory."""
        return ""

    @property
    def version(self) -> str:
        """Empty string, because a run has only one version."""
        return ""

    @property
    def save_dir(self) -> str:
        """Directory of the run; equals `trainer.log_dir` if this is the first logger."""
        return str(self._directory)

    def state_dict(self) -> dict[str, Any]:
        """Write the tables to disk; return the columns, row count and digest of each table."""
        return {name: table.state_dict() for name, table in self._tables.items()}

    def check_state(self, state: dict[str, Any], must_exist: bool = True) -> None:
        """Check that the files begin with the tables whose state was saved, without changing them.

        Args:
            state: State returned by `state_dict`.
            must_exist: Whether a missing file is an error.

        Raises:
            ConfigError: If a file is missing, or if its rows differ from the saved table.
        """
        for name, table in self._tables.items():
            table.check(must_exist, **state[name])

    @rank_zero_only
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remove rows and columns that were added after the state was saved.

        Missing files are created when the next metric is logged.
        """
        for name, table in self._tables.items():
            table.truncate(**state[name])

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Do nothing: the run's config file already contains the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row to each table to which any of the metrics belongs.

        Args:
            metrics: Values of the metrics, by name.
            step: Number of environment steps, written to the column `env_steps`.
        """
        for name, table in self._tables.items():
            is_timing = name == "timing"
            row = {k: v for k, v in metrics.items() if k.startswith(TIME_PREFIX) == is_timing}
            if row:
                table.add({"env_steps": step, **row})

    @rank_zero_only
    def save(self) -> None:
        """Write buffered rows to disk."""
        for table in self._tables.values():
            table.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write buffered rows to disk and close the files."""
        for table in self._tables.values():
            table.close()


class _Table:
    """CSV file to which rows and columns can be added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []
        self._rows = 0
        self._sha256 = hashlib.sha256()  # of the whole file
        self._file: Any = None
        self._next_flush = 0.0

    def add(self, row: dict[str, Any]) -> None:
        if self._file is None:
            self._open()
        if not row.keys() <= set(self._columns):
            self._add_columns([name for name in row if name not in self._columns])
        values = [row.get(name) for name in self._columns]
        line = ",".join("" if value is None else _format_number(value) for value in values) + "\n"
        with _file_named_in_errors(self._file):
            self._file.write(line)
        self._sha256.update(line.encode())
        self._rows += 1
        now = time.monotonic()
        if now >= self._next_flush:  # up to 20 rows at once and 20 per second: each costs 4 us
            self.flush()
            self._next_flush = max(self._next_flush, now - 1.0) + 0.05

    def flush(self) -> None:
        if self._file is not None:
            with _file_named_in_errors(self._file):
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with _file_named_in_errors(file):
                file.close()

    def state_dict(self) -> dict[str, Any]:
        self.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())
        digest = self._sha256.hexdigest()
        return {"columns": list(self._columns), "rows": self._rows, "digest": digest}

    def check(self, must_exist: bool, columns: list[str], rows: int, digest: str) -> None:
        if rows == 0 or not (must_exist or self._path.exists()):
            return
        try:
            text = _to_text(columns, _read_rows(self._path)[:rows])
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read ({error.strerror or error})") from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path} is corrupt ({type(error).__name__})") from error
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ConfigError(f"{self._path} does not begin with the rows of this run")

    def truncate(self, columns: list[str], rows: int, digest: str) -> None:
        self.close()
        if not self._path.exists():
            return
        self._columns, self._rows = list(columns), rows
        if rows == 0:
            self._path.unlink()
            return
        self._rewrite(_read_rows(self._path)[:rows])

    def _open(self) -> None:
        if self._path.exists():
            with self._path.open(newline="") as lines:
                self._columns = next(csv.reader(lines), [])
                self._rows = sum(1 for _ in lines)
            self._sha256 = hashlib.sha256(self._path.read_bytes())
        self._file = self._path.open("a", newline="")

    def _add_columns(self, new: list[str]) -> None:
        self.close()
        self._columns += new
        self._rewrite(_read_rows(self._path))
        self._file = self._path.open("a", newline="")

    def _rewrite(self, rows: Sequence[list[str]]) -> None:
        text = _to_text(self._columns, rows)
        unfinished = self._path.with_name(f".tmp-{self._path.name}")
        try:
            with unfinished.open("w", newline="") as file, _file_named_in_errors(file):
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._sha256 = hashlib.sha256(text.encode())


@contextmanager
def _file_named_in_errors(file: Any) -> Iterator[None]:
    """Add the file name to an `OSError`, such as the error raised when the disk is full."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error


def _read_rows(path: Path) -> list[list[str]]:
    """Return the cells of all rows after the header."""
    with path.open(newline="") as lines:
        return list(csv.reader(lines))[1:]


def _to_text(columns: Sequence[str], rows: Sequence[list[str]]) -> str:
    """Return the content of a CSV file; rows are cut or filled up to the number of columns."""
    width, lines = len(columns), io.StringIO()
    cells = [(row + [""] * width)[:width] for row in rows]
    csv.writer(lines, lineterminator="\n").writerows([columns, *cells])
    return lines.getvalue()


def _format_number(value: Any) -> str:
    """Return text that converts back to the same number; whole numbers have no decimals."""
    number = float(value)
    return str(int(number)) if math.isfinite(number) and number.is_integer() else repr(number)
