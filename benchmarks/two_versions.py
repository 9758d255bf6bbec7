"""Compare the speed of two versions of this project: what does a change cost?

    git worktree add ../before main~3
    python -m benchmarks.two_versions ../before . --repeats 7

Each version trains its own `configs/cartpole.yaml` (or the one given by `--config`) in turn, in the
order old, new, new, old, … so that a drift of the machine's speed cancels. Both use the same
seed, so they must perform the same updates: the metrics are compared, and the exit code is 1 if
a value differs. Printed are the seconds of training (`timing.csv`), the processor seconds of the
process, including its start, and the ratios new / old of the pairs.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks import compare_metrics, ratios

FLAGS = ("--trainer.enable_progress_bar=false", "--episode_log.save_plots=false")


class Cost(NamedTuple):
    """Seconds of training, and processor seconds of the whole process."""

    training_s: float
    cpu_s: float


def train(version: Path, config: str, directory: Path, flags: list[str]) -> Cost:
    """Train one run in `directory`."""
    command = [sys.executable, str(version / "train.py"), "fit", "--run_name=run"]
    command += ["--config", str(version / "configs" / f"{config}.yaml"), *FLAGS, *flags]
    environment = {**os.environ, "PYTHONPATH": str(version), "OMP_NUM_THREADS": "1"}
    directory.mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    with (directory / "checkpoints/run/timing.csv").open(newline="") as lines:
        *_, last = csv.DictReader(lines)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(float(last["time/elapsed_s"]), cpu_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="directory of the old version")
    parser.add_argument("new", type=Path, help="directory of the new version")
    parser.add_argument("--config", default="cartpole", help="name of a config in configs/")
    parser.add_argument("--repeats", type=int, default=5)
    arguments, flags = parser.parse_known_args()
    versions = {"old": arguments.old.resolve(), "new": arguments.new.resolve()}
    costs: dict[str, list[Cost]] = {"old": [], "new": []}
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(arguments.repeats):
            for name in ("old", "new") if i % 2 == 0 else ("new", "old"):
                directory = Path(scratch, f"{name}-{i}")
                costs[name].append(train(versions[name], arguments.config, directory, flags))
                print(f"{i + 1} {name}: {costs[name][-1]}", flush=True)
        runs = [Path(scratch, f"{name}-0", "checkpoints/run") for name in versions]
        differs = compare_metrics.main(*runs)
    for field in Cost._fields:
        old, new = ([getattr(cost, field) for cost in costs[name]] for name in versions)
        print(
            f"{field}: medians {statistics.median(old):.2f} and {statistics.median(new):.2f}, "
            f"new / old {ratios.of_pairs(new, old, digits=3)}"
        )
    return differs


if __name__ == "__main__":
    sys.exit(main())
