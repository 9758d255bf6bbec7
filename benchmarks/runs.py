"""Runs of `train.py` that benchmarks make and read. They stay in checkpoints/."""

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
    """Run `train.py`; what it says is shown only if it fails, which ends the benchmark."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def trained(name: str, flags: list[str]) -> Path:
    """A run of this name, which is not repeated if it is there already; gives its folder."""
    folder = Path("checkpoints", name)
    if not folder.exists():
        unfinished = folder.with_name(f"{name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # of one that was cut
        train_py("fit", "--run_name", unfinished.name, *flags)
        unfinished.rename(folder)
    return folder


def tested(folder: Path) -> dict[str, Any]:
    """What `best.ckpt` does in a test: the content of `test.json`."""
    path = folder / "test.json"
    if not path.exists():
        train_py("test", "--ckpt_path", str(folder / "best.ckpt"))
    return dict(json.loads(path.read_text()))


def evaluations(folder: Path) -> dict[int, float]:
    """Environment steps → mean return."""
    return curve(folder, "eval/return_mean")


def curve(folder: Path, column: str, file: str = "metrics.csv") -> dict[int, float]:
    """Environment steps → value, of a column."""
    with (folder / file).open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get(column)]
    return {int(row["env_steps"]): float(row[column]) for row in rows}
