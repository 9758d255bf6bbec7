"""Train runs with `train.py` and read their metrics. Runs are kept in checkpoints/."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def train_py(*arguments: str) -> None:
    """Run `train.py`; if it fails, print its output and end the benchmark."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def trained(name: str, flags: list[str]) -> Path:
    """Train a run of this name unless it exists, and return its directory."""
    directory = Path("checkpoints", name)
    if not directory.exists():
        unfinished = directory.with_name(f"{name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # of an interrupted run
        train_py("fit", "--run_name", unfinished.name, *flags)
        unfinished.rename(directory)
    return directory


def tested(directory: Path) -> dict[str, Any]:
    """Test `best.ckpt` unless that was done before, and return the content of `test.json`."""
    path = directory / "test.json"
    if not path.exists():
        train_py("test", "--ckpt_path", str(directory / "best.ckpt"))
    return dict(json.loads(path.read_text()))


def evaluations(directory: Path) -> dict[int, float]:
    """Return the mean return of each evaluation by environment steps."""
    return curve(directory, "eval/return_mean")


def curve(directory: Path, column: str, file: str = "metrics.csv") -> dict[int, float]:
    """Return the values of a column by environment steps."""
    with (directory / file).open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get(column)]
    return {int(row["env_steps"]): float(row[column]) for row in rows}
