"""The command `plot`: needs tables only, and so neither PyTorch nor Lightning."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from matplotlib.figure import Figure

from dqn_lightning.errors import ConfigError
from dqn_lightning.plots.runs import draw_runs
from dqn_lightning.plots.tables import NOT_LEARNING, grouped, read_run

_KINDS = (".png", ".svg")
_DPI = 150


def main(arguments: Sequence[str]) -> int:
    """Draw what runs have measured; gives the exit code, 2 if something given cannot work.

    Args:
        arguments: What stands on the command line after `plot`.
    """
    try:
        _plot(arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _plot(arguments: Sequence[str]) -> None:
    given = _parser().parse_args(arguments)
    folders = list({folder.resolve(): folder for folder in given.runs}.values())
    if not folders:
        raise ConfigError("plot: name the folder of a run, as checkpoints/cartpole")
    if given.window < 1:
        raise ConfigError(f"--window: must be at least 1, got {given.window}")
    pictures = _pictures(given.out, folders)
    figure = draw_runs(grouped(map(read_run, folders)), given.window)
    for picture in pictures:
        _save(figure, picture)
        print(f"written to {picture}")


def _pictures(out: Path | None, folders: Sequence[Path]) -> list[Path]:
    """Where the figure goes."""
    if out is None:
        folder = folders[0] if len(folders) == 1 else Path()
        return [folder / f"plot{kind}" for kind in _KINDS]
    if out.suffix not in _KINDS:
        raise ConfigError(f"--out: must end in {' or '.join(_KINDS)}, got {out}")
    return [out]


def _save(figure: Figure, picture: Path) -> None:
    try:
        figure.savefig(picture, dpi=_DPI)
    except OSError as error:
        raise ConfigError(f"--out: {picture} cannot be written ({error.strerror})") from error


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"plot: {message}; see plot --help")


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="train.py plot",
        description="Draw what runs have measured: returns, durations, evaluations, loss, "
        "epsilon, action values, speed. It may be used while they go on.",
        epilog="Runs are one group, drawn as their median with a band, if their config.yaml are "
        f"equal but for {', '.join(NOT_LEARNING)}.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", type=Path, help="folder of a run, as checkpoints/cartpole"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="picture to write, .png or .svg (default: plot.png and plot.svg, in the run's folder, "
        "or in the working directory if there are several runs)",
    )
    parser.add_argument(
        "--window",
        metavar="N",
        type=int,
        default=100,
        help="episodes of the running means (default: %(default)s)",
    )
    return parser
