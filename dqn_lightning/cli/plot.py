"""The command `plot`, which plots metrics without importing PyTorch or Lightning."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from matplotlib.figure import Figure

from dqn_lightning.cli.registry import COMMANDS
from dqn_lightning.errors import ConfigError
from dqn_lightning.plots.runs import draw_runs
from dqn_lightning.plots.tables import IGNORED_SETTINGS, group_runs, read_run

_SUFFIXES = (".png", ".svg")
_DPI = 150


def plot(arguments: Sequence[str]) -> None:
    """Plot the metrics of one or more runs, and write the plot to image files.

    Args:
        arguments: Command-line arguments after `plot`.

    Raises:
        ConfigError: If an argument is invalid, a run has no metrics, or a file cannot be written.
    """
    parsed = _parser().parse_args(arguments)
    directories = list({directory.resolve(): directory for directory in parsed.runs}.values())
    if not directories:
        raise ConfigError("plot: name the directory of a run, such as checkpoints/cartpole")
    if parsed.window < 1:
        raise ConfigError(f"--window: must be at least 1, got {parsed.window}")
    paths = _output_paths(parsed.out, directories)
    figure = draw_runs(group_runs(map(read_run, directories)), parsed.window)
    for path in paths:
        _save(figure, path)
        print(f"written to {path}")


def _output_paths(out: Path | None, directories: Sequence[Path]) -> list[Path]:
    if out is None:
        directory = directories[0] if len(directories) == 1 else Path()
        return [directory / f"plot{suffix}" for suffix in _SUFFIXES]
    if out.suffix not in _SUFFIXES:
        raise ConfigError(f"--out: must end in {' or '.join(_SUFFIXES)}, got {out}")
    return [out]


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=_DPI)
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written ({error.strerror})") from error


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"plot: {message}; see plot --help")


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="train.py plot",
        description=f"{COMMANDS['plot'].help} Panels: returns, episode lengths, evaluations, loss, "
        "epsilon, action values, speed.",
        epilog="Runs form a group, drawn as their median with a band, if their config.yaml differ "
        f"only in {', '.join(IGNORED_SETTINGS)}.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=Path,
        help="directory of a run, such as checkpoints/cartpole",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="image to write, .png or .svg (default: plot.png and plot.svg, in the run's "
        "directory, or in the working directory if there are several runs)",
    )
    parser.add_argument(
        "--window",
        metavar="N",
        type=int,
        default=100,
        help="number of episodes in each running mean (default: %(default)s)",
    )
    return parser
