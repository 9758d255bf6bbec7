"""A logger that writes what a run measured as two tables."""

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
"""Prefix of every value that depends on the wall clock, and so on the machine."""


class CSVLog(Logger):
    """Writes `metrics.csv`, and `timing.csv` for everything that depends on the wall clock.

    Both have a column `env_steps` and one column per value, empty where it was not measured. A
    table is only ever appended to, except when a new column makes it wider.

    Lightning's own CSVLogger deletes the table it finds in its folder, and knows one table only.

    Args:
        folder: The run's folder, which must exist when the first value is logged.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._tables = {"metrics": _Table(), "timing": _Table()}

    @property
    def name(self) -> str:
        """None: a run has a folder of its own."""
        return ""

    @property
    def version(self) -> str:
        """None, likewise."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder; Lightning makes it `trainer.log_dir` if this logger is the first."""
        return str(self._folder)

    def state_dict(self) -> dict[str, Any]:
        """How long and how wide the tables are, which are on disk then."""
        return {name: table.state_dict() for name, table in self._tables.items()}

    @rank_zero_only
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the tables back to what they were; tables that are not there are begun anew."""
        for name, table in self._tables.items():
            table.cut(self._folder / f"{name}.csv", **state[name])

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the configuration lies beside the tables."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row at `step` environment steps to the tables that the values belong to."""
        for name, table in self._tables.items():
            timing = name == "timing"
            row = {k: v for k, v in metrics.items() if k.startswith(TIME_PREFIX) == timing}
            if row:
                table.add(self._folder / f"{name}.csv", {"env_steps": step, **row})

    @rank_zero_only
    def save(self) -> None:
        """Bring everything to disk."""
        for table in self._tables.values():
            table.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Bring everything to disk and close the files."""
        for table in self._tables.values():
            table.close()


class _Table:
    """One growing CSV file."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._rows = 0
        self._file: Any = None

    def add(self, path: Path, row: dict[str, Any]) -> None:
        if self._file is None:
            self._open(path)
        if not row.keys() <= set(self._columns):
            self._widen(path, [name for name in row if name not in self._columns])
        cells = ["" if row.get(name) is None else _cell(row[name]) for name in self._columns]
        with _named(self._file):
            self._file.write(",".join(cells) + "\n")
        self._rows += 1

    def flush(self) -> None:
        if self._file is not None:
            with _named(self._file):
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with _named(file):
                file.close()

    def state_dict(self) -> dict[str, Any]:
        self.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())
        return {"columns": list(self._columns), "rows": self._rows}

    def cut(self, path: Path, columns: list[str], rows: int) -> None:
        self.close()
        if not path.exists():
            return
        self._columns, self._rows = list(columns), rows
        if rows == 0:
            path.unlink()
            return
        self._rewrite(path, [row[: len(columns)] for row in _rows_of(path)[:rows]])

    def _open(self, path: Path) -> None:
        if path.exists():
            with path.open(newline="") as lines:
                self._columns = next(csv.reader(lines), [])
                self._rows = sum(1 for _ in lines)
        self._file = path.open("a", newline="")

    def _widen(self, path: Path, new: list[str]) -> None:
        self.close()
        self._columns += new
        self._rewrite(path, [[*row, *[""] * len(new)] for row in _rows_of(path)])
        self._file = path.open("a", newline="")

    def _rewrite(self, path: Path, rows: list[list[str]]) -> None:
        unfinished = path.with_name(f".{path.name}.tmp")
        with unfinished.open("w", newline="") as lines:
            csv.writer(lines, lineterminator="\n").writerows([self._columns, *rows])
        unfinished.replace(path)


@contextmanager
def _named(file: Any) -> Iterator[None]:
    """Have errors, as of a disk that is full, say which file it is."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error


def _rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as lines:
        return list(csv.reader(lines))[1:]


def _cell(value: Any) -> str:
    number = float(value)
    return str(int(number)) if math.isfinite(number) and number.is_integer() else repr(number)
