"""Functions that read the metrics of runs and group runs that differ only in their seeds."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from dqn_lightning.errors import ConfigError

IGNORED_SETTINGS = (
    "seed_everything",
    "run_name",
    "num_threads",
    "episode_log",
    "diagnostics",
    "checkpoints",
    "data.seed",
    "trainer.logger",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
)
"""Settings that may differ between runs in the same group; all other settings must be equal."""

_TRAILING_NUMBER = re.compile(r"([-_. ]+|[-_. ]*seed[-_. ]*)\d+$")


class Series(NamedTuple):
    """Values of one metric over environment steps.

    Attributes:
        env_steps: Environment steps [P] at which the metric was logged, in ascending order.
        values: Values of the metric [P] at these steps, all finite.
    """

    env_steps: NDArray[np.float64]
    values: NDArray[np.float64]


class Run(NamedTuple):
    """Metrics and settings of a run.

    Attributes:
        name: Name of the run's directory.
        settings: Settings of the run except `IGNORED_SETTINGS`, as JSON text.
        metrics: Series for each column of `metrics.csv` and `timing.csv` that contains values.
    """

    name: str
    settings: str
    metrics: Mapping[str, Series]


class Group(NamedTuple):
    """Group of runs that differ only in `IGNORED_SETTINGS`, such as the seed.

    Attributes:
        label: Label of the group in the legend.
        runs: Runs in the group, at least one.
    """

    label: str
    runs: Sequence[Run]

    def series(self, column: str) -> list[Series]:
        """Return the series of a column for each run; empty if the column is missing in any run."""
        if all(column in run.metrics for run in self.runs):
            return [run.metrics[column] for run in self.runs]
        return []


def read_run(directory: Path) -> Run:
    """Read the metrics and settings of a run that has finished or is still in progress.

    Args:
        directory: Directory of the run.

    Raises:
        ConfigError: If `directory` is not a run directory, or nothing has been logged yet.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"plot: {directory} is not a directory; name directories of runs, such as "
            "checkpoints/*/"
        )
    metrics, timing = directory / "metrics.csv", directory / "timing.csv"
    if not metrics.is_file():
        raise ConfigError(
            f"plot: there is no metrics.csv in {directory}; name the directory of a run, such as "
            "checkpoints/cartpole"
        )
    series = _read_table(metrics)
    if not series:
        raise ConfigError(f"plot: {metrics} is empty; it is filled during training")
    if timing.is_file():
        series |= _read_table(timing)
    return Run(directory.resolve().name, _read_settings(directory), series)


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Group runs that have equal settings; the groups are in the order of their first runs."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        by_settings.setdefault(run.settings, []).append(run)
    names = [[run.name for run in group] for group in by_settings.values()]
    labels = [common_name(names_of_group) for names_of_group in names]
    return [
        Group(label if labels.count(label) == 1 else _name_range(names_of_group), group)
        for label, names_of_group, group in zip(labels, names, by_settings.values(), strict=True)
    ]


def common_name(names: Sequence[str]) -> str:
    """Return a common name for several runs.

    If the names differ only in a trailing number, the common name omits this number. Otherwise it
    consists of the first and the last name.

    >>> common_name(["cartpole_c51-seed-10", "cartpole_c51-seed-11"])
    'cartpole_c51'
    >>> common_name(["cartpole", "cartpole-2"])
    'cartpole'
    >>> common_name(["acrobot", "taxi"])
    'acrobot … taxi'
    """
    if len(names) == 1:
        return names[0]
    without_numbers = {_TRAILING_NUMBER.sub("", name) for name in names}
    return without_numbers.pop() if len(without_numbers) == 1 else _name_range(names)


def _name_range(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def _read_table(path: Path) -> dict[str, Series]:
    """Read a CSV file of metrics; return the series of each column that contains values."""
    try:
        with path.open(newline="") as lines:
            # A run that is still training may have written only part of the last line.
            return _parse_columns(csv.reader(line for line in lines if line.endswith("\n")))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"plot: {path} is not a table of metrics ({error})") from error


def _parse_columns(rows: Iterable[Sequence[str]]) -> dict[str, Series]:
    header, *cells = [*rows] or [[]]
    if header and header[0] != "env_steps":
        raise ValueError(f"its first column is {header[0]!r}, not 'env_steps'")
    if any(len(row) != len(header) for row in cells):
        raise ValueError("its rows have different lengths")
    table = np.array([[float(cell or "nan") for cell in row] for row in cells])
    table = table.reshape(len(cells), len(header))
    has_value = np.isfinite(table)
    return {
        name: Series(table[has_value[:, i], 0], table[has_value[:, i], i])
        for i, name in enumerate(header)
        if i > 0 and has_value[:, i].any()
    }


def _read_settings(directory: Path) -> str:
    path = directory / "config.yaml"
    if not path.is_file():
        return f"unknown settings of {directory.resolve()}"  # unique: forms its own group
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"plot: {path} is not a configuration ({error})") from error
    if not isinstance(config, dict):
        raise ConfigError(f"plot: {path} is not a configuration (it must be a mapping)")
    for name in IGNORED_SETTINGS:
        _remove(config, name)
    return json.dumps(config, sort_keys=True, default=str)


def _remove(config: dict[str, Any], name: str) -> None:
    section, _, rest = name.partition(".")
    if not rest:
        config.pop(section, None)
    elif isinstance(config.get(section), dict):
        _remove(config[section], rest)
