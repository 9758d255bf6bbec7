"""What runs have measured, read from their folders, and which of them differ by seed alone."""

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

NOT_LEARNING = (
    "seed_everything",
    "run_name",
    "num_threads",
    "episode_log",
    "health",
    "checkpoints",
    "data.seed",
    "trainer.logger",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
)
"""Settings in which runs of one group may differ; in all others they are equal."""

_NUMBER_AT_THE_END = re.compile(r"([-_. ]+|[-_. ]*seed[-_. ]*)\d+$")


class Series(NamedTuple):
    """One quantity over environment steps.

    Attributes:
        env_steps: When it was measured [N], in the table's order, which is that of time.
        values: What was measured [N], finite.
    """

    env_steps: NDArray[np.float64]
    values: NDArray[np.float64]


class Run(NamedTuple):
    """A run's tables.

    Attributes:
        name: Its folder's name.
        settings: Its settings but `NOT_LEARNING`, as text.
        series: Column of `metrics.csv` or `timing.csv` → what was measured.
    """

    name: str
    settings: str
    series: Mapping[str, Series]


class Group(NamedTuple):
    """Runs that are equal but for their seeds.

    Attributes:
        label: What their names have in common.
        runs: At least one.
    """

    label: str
    runs: Sequence[Run]

    def measured(self, column: str) -> list[Series]:
        """A column of each run, or of none if one of them has not measured it."""
        if all(column in run.series for run in self.runs):
            return [run.series[column] for run in self.runs]
        return []


def read_run(folder: Path) -> Run:
    """Read a run's folder, also while the run goes on.

    Raises:
        ConfigError: If it is not the folder of a run that has measured something.
    """
    if not folder.is_dir():
        raise ConfigError(f"plot: {folder} is no folder; name folders of runs, as checkpoints/*/")
    metrics, timing = folder / "metrics.csv", folder / "timing.csv"
    if not metrics.is_file():
        raise ConfigError(
            f"plot: there is no metrics.csv in {folder}; name the folder of a run, as "
            "checkpoints/cartpole"
        )
    series = _read_table(metrics)
    if not series:
        raise ConfigError(f"plot: {metrics} is empty; it is filled while the run goes on")
    if timing.is_file():
        series |= _read_table(timing)
    return Run(folder.resolve().name, _read_settings(folder), series)


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Put runs together that have the same settings, in the order of their first ones."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        by_settings.setdefault(run.settings, []).append(run)
    names = [[run.name for run in group] for group in by_settings.values()]
    labels = [common_name(of_group) for of_group in names]
    return [
        Group(label if labels.count(label) == 1 else _span(of_group), group)
        for label, of_group, group in zip(labels, names, by_settings.values(), strict=True)
    ]


def common_name(names: Sequence[str]) -> str:
    """Names without the numbers that tell them apart, or the first and the last name.

    >>> common_name(["cartpole_c51-seed-10", "cartpole_c51-seed-11"])
    'cartpole_c51'
    >>> common_name(["cartpole", "cartpole-2"])
    'cartpole'
    >>> common_name(["acrobot", "taxi"])
    'acrobot … taxi'
    """
    if len(names) == 1:
        return names[0]
    without = {_NUMBER_AT_THE_END.sub("", name) for name in names}
    return without.pop() if len(without) == 1 else _span(names)


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def _read_table(path: Path) -> dict[str, Series]:
    """Every column that has been measured."""
    try:
        with path.open(newline="") as lines:
            # A run that goes on may have written half of the last line.
            return _columns(csv.reader(line for line in lines if line.endswith("\n")))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"plot: {path} is no table of a run ({error})") from error


def _columns(rows: Iterable[Sequence[str]]) -> dict[str, Series]:
    header, *cells = [*rows] or [[]]
    if header and header[0] != "env_steps":
        raise ValueError(f"its first column is {header[0]!r}, not 'env_steps'")
    if any(len(row) != len(header) for row in cells):
        raise ValueError("its rows have different lengths")
    table = np.array([[float(cell or "nan") for cell in row] for row in cells])
    table = table.reshape(len(cells), len(header))
    measured = np.isfinite(table)
    return {
        name: Series(table[measured[:, i], 0], table[measured[:, i], i])
        for i, name in enumerate(header)
        if i > 0 and measured[:, i].any()
    }


def _read_settings(folder: Path) -> str:
    path = folder / "config.yaml"
    if not path.is_file():
        return f"those of {folder.resolve()}"  # unknown, so a group of its own
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"plot: {path} is no configuration ({error})") from error
    if not isinstance(config, dict):
        raise ConfigError(f"plot: {path} is no configuration: it has no settings with names")
    for name in NOT_LEARNING:
        _remove(config, name)
    return json.dumps(config, sort_keys=True, default=str)


def _remove(config: dict[str, Any], name: str) -> None:
    section, _, rest = name.partition(".")
    if not rest:
        config.pop(section, None)
    elif isinstance(config.get(section), dict):
        _remove(config[section], rest)
