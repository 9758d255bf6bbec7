"""Run commands in this process, on a short run."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch  # noqa: F401  (its log handler keeps the stderr of its import)
import pytest

from dqn_lightning.cli.main import main

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
CARTPOLE = CONFIGS / "cartpole.yaml"

SHORT = [
    "--data.schedule.total_env_steps=600",
    "--data.schedule.learning_starts_env_steps=100",
    "--data.schedule.train_every_env_steps=16",
    "--data.schedule.updates_per_train=2",
    "--data.evaluation.every_env_steps=200",
    "--data.evaluation.episodes=2",
    "--data.evaluation.test_episodes=3",
    "--model.network.init_args.widths=[16]",
    "--trainer.log_every_n_steps=10",
]
"""Flags of a CartPole run that takes less than a second."""


def fit(*flags: str, config: Path | None = None) -> int:
    """Run a short `fit` and return its exit code."""
    arguments = ["fit", *SHORT, *flags]
    if config is not None:
        arguments[1:1] = ["--config", str(config)]
    return main(arguments, default_configs={"fit": CARTPOLE})


def read_files(directory: Path) -> dict[str, bytes]:
    """Return the contents of all files below a directory."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def copy_pretrained(name: str) -> str:
    """Copy a pretrained run into the working directory; return the path of its checkpoint."""
    shutil.copytree(ROOT / "checkpoints" / "pretrained" / name, name)
    return f"{name}/best.ckpt"


def assert_rejected(
    arguments: Sequence[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    default_configs: dict[str, Path] | None = None,
) -> None:
    """Check that a command exits with 2, and that its error matches a regular expression."""
    assert main(arguments, default_configs) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert error.splitlines()[-1].startswith("error: ")  # one line, after messages of the log
    assert "Traceback" not in error
    assert "usage: " not in error
