"""Do memory, file descriptors, threads and child processes stay flat?

    python -m benchmarks.endurance                # ten minutes of one run, then 50 fits
    python -m benchmarks.endurance --minutes 2 --fits 20

Part 1 is one run that evaluates and saves about every half second, with asynchronous environments
and prioritized replay. Part 2 is many short runs in one process, with and without asynchronous
environments. The first third of the samples is warm-up. After it, memory must grow by less than
1 MB per minute (part 1) or 0.2 MB per fit (part 2) by a least-squares line, and file descriptors,
threads and child processes must not have a larger median in the second half than in the first.
Otherwise, the exit code is 1. Needs Linux, because it reads /proc.
"""

import argparse
import csv
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.runs import CONFIGS, ROOT

MAX_MB_PER_MINUTE, MAX_MB_PER_FIT = 1.0, 0.2

FLAGS = (
    f"--config={CONFIGS / 'cartpole.yaml'}",
    "--data.schedule.learning_starts_env_steps=200",
    "--data.schedule.train_every_env_steps=8",
    "--data.schedule.updates_per_train=2",
    "--data.schedule.rollout_env_steps=50",
    "--data.replay.capacity=4000",
    "--data.replay.n_step=3",
    "--data.replay.sampler=dqn_lightning.replay.Prioritized",
    "--data.evaluation.every_env_steps=200",
    "--data.evaluation.episodes=2",
    "--data.evaluation.env_kwargs.max_episode_steps=50",
    "--diagnostics.num_states=64",
    "--checkpoints.every_n_env_steps=200",
    "--checkpoints.keep_last=2",
    "--model.network.init_args.widths=[64]",
    "--trainer.enable_progress_bar=false",
)
ASYNC = ("--data.env.num_envs=2", "--data.env.vectorization=async")


class Sample(NamedTuple):
    """Resources of a process at a time.

    Attributes:
        position: Minutes since the start, or number of finished fits.
        rss_mb: Resident memory, of the process alone.
        fds: Open file descriptors.
        threads: Threads of the operating system.
        children: Child processes, including their own.
    """

    position: float
    rss_mb: float
    fds: int
    threads: int
    children: int


def sample(pid: int, position: float) -> Sample:
    """Read the resources of a process from /proc."""
    process = Path("/proc", str(pid))
    pages = int((process / "statm").read_text().split()[1])
    return Sample(
        position,
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        count_children(pid),
    )


def count_children(pid: int) -> int:
    count = 0
    for path in Path("/proc", str(pid), "task").glob("*/children"):
        for child in path.read_text().split():
            count += 1 + count_children(int(child))
    return count


# Part 1: one run ---------------------------------------------------------------------------------


def one_run(minutes: float) -> list[Sample]:
    """Train for some minutes; sample the process from outside."""
    seconds = round(minutes * 60)
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "fit",
        "--run_name=endurance",
        *FLAGS,
        *ASYNC,
    ]
    command += [
        "--data.schedule.total_env_steps=100000000",
        f"--trainer.max_time=00:{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}",
    ]
    samples: list[Sample] = []
    started = time.monotonic()
    with Path("endurance.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            try:
                samples.append(sample(process.pid, (time.monotonic() - started) / 60))
            except OSError:  # it has just ended
                break
            time.sleep(min(5, seconds / 30))
    if process.wait():
        sys.exit(Path("endurance.log").read_text())
    with Path("checkpoints/endurance/metrics.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["eval/return_mean"]]
    print(f"{len(rows):,} evaluations and saves in {rows[-1]['env_steps']} environment steps")
    return samples[:-1]  # the last one may be from its end


# Part 2: many fits -------------------------------------------------------------------------------


def many_fits(num_fits: int) -> list[Sample]:
    """Run many fits in one process, which samples itself after each."""
    command = [sys.executable, "-m", "benchmarks.endurance", "--in-process", str(num_fits)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Sample(*values) for values in json.loads(done.stdout.splitlines()[-1])]


def fit_many_times(num_fits: int) -> None:
    from dqn_lightning.cli.main import main

    samples = []
    for i in range(num_fits):
        arguments = ["fit", *FLAGS, *(ASYNC if i % 2 else ()), f"--run_name=fit-{i}"]
        if main([*arguments, "--data.schedule.total_env_steps=800"]):
            sys.exit(1)
        if i % 2 == 0:
            continue  # a sample after each pair of fits, the second of which is asynchronous
        gc.collect()
        samples.append(sample(os.getpid(), i + 1))
    print(json.dumps(samples))


# Report ------------------------------------------------------------------------------------------


def report(samples: Sequence[Sample], unit: str, max_mb_per_unit: float) -> bool:
    """Print a table of the samples; return whether the resources are flat after the warm-up."""
    print(f"\n| {unit} | RSS, MB | file descriptors | threads | child processes |")
    print("|---|---|---|---|---|")
    for each in samples[:: max(1, len(samples) // 12)]:
        print(
            f"| {each.position:.1f} | {each.rss_mb:.1f} | {each.fds} | {each.threads} "
            f"| {each.children} |"
        )
    warm = samples[len(samples) // 3 :]
    slope = float(np.polyfit([s.position for s in warm], [s.rss_mb for s in warm], 1)[0])
    print(f"\nmemory after the warm-up: {slope:+.3f} MB per {unit}, limit {max_mb_per_unit}")
    flat = slope < max_mb_per_unit
    half = len(warm) // 2
    for name in ("fds", "threads", "children"):
        values = [getattr(each, name) for each in warm]
        first, second = statistics.median(values[:half]), statistics.median(values[half:])
        print(f"{name}: median {first} in the first half, {second} in the second")
        flat = flat and second <= first
    print("flat" if flat else "NOT FLAT", flush=True)
    return flat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="length of part 1")
    parser.add_argument("--fits", type=int, default=50, help="number of fits in part 2")
    parser.add_argument("--in-process", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        fit_many_times(arguments.in_process)
        return 0
    flat = True
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        if arguments.minutes:
            flat = report(one_run(arguments.minutes), "minute", MAX_MB_PER_MINUTE)
        if arguments.fits:
            flat = report(many_fits(arguments.fits), "fit", MAX_MB_PER_FIT) and flat
        os.chdir(ROOT)
    return int(not flat)


if __name__ == "__main__":
    sys.exit(main())
