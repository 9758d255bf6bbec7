"""Logger that writes the metrics of a run to CSV files."""

import csv
import math
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

TIME_PREFIX = "time/"
"""Prefix of metrics that depend on wall-clock time, and therefore on the machine."""


class CSVLogger(Logger):
    """Logger that writes metrics to `metrics.csv`, and `time/…` metrics to `timing.csv`.

    Both tables have a column `env_steps` and one column per metric. A cell is empty if the metric
    was not logged at that step. Rows are appended; a file is rewritten only to add a column.

    Lightning's CSVLogger supports only a single table, and deletes an existing table in its
    directory.

    Args:
        directory: Directory of the run. It must exist when the first value is logged.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._tables = {"metrics": _Table(), "timing": _Table()}

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
        """Write the tables to disk; return the columns and the row count of each table."""
        return {name: table.state_dict() for name, table in self._tables.items()}

    @rank_zero_only
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remove rows and columns that were added after the state was saved.

        Missing files are created when the next metric is logged.
        """
        for name, table in self._tables.items():
            table.truncate(self._directory / f"{name}.csv", **state[name])

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
                table.add(self._directory / f"{name}.csv", {"env_steps": step, **row})

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

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._rows = 0
        self._file: Any = None

    def add(self, path: Path, row: dict[str, Any]) -> None:
        if self._file is None:
            self._open(path)
        if not row.keys() <= set(self._columns):
            self._add_columns(path, [name for name in row if name not in self._columns])
        values = [row.get(name) for name in self._columns]
        cells = ["" if value is None else _format_number(value) for value in values]
        with _file_named_in_errors(self._file):
            self._file.write(",".join(cells) + "\n")
        self._rows += 1

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
        return {"columns": list(self._columns), "rows": self._rows}

    def truncate(self, path: Path, columns: list[str], rows: int) -> None:
        self.close()
        if not path.exists():
            return
        self._columns, self._rows = list(columns), rows
        if rows == 0:
            path.unlink()
            return
        self._rewrite(path, [row[: len(columns)] for row in _read_rows(path)[:rows]])

    def _open(self, path: Path) -> None:
        if path.exists():
            with path.open(newline="") as lines:
                self._columns = next(csv.reader(lines), [])
                self._rows = sum(1 for _ in lines)
        self._file = path.open("a", newline="")

    def _add_columns(self, path: Path, new: list[str]) -> None:
        self.close()
        self._columns += new
        self._rewrite(path, [[*row, *[""] * len(new)] for row in _read_rows(path)])
        self._file = path.open("a", newline="")

    def _rewrite(self, path: Path, rows: list[list[str]]) -> None:
        unfinished = path.with_name(f".{path.name}.tmp")
        with unfinished.open("w", newline="") as lines:
            csv.writer(lines, lineterminator="\n").writerows([self._columns, *rows])
        unfinished.replace(path)


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


def _format_number(value: Any) -> str:
    """Return text that converts back to the same number; whole numbers have no decimals."""
    number = float(value)
    return str(int(number)) if math.isfinite(number) and number.is_integer() else repr(number)
