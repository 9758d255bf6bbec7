"""Compare the cost of a step of `configs/pytorch_tutorial.yaml` with plain PyTorch.

    python -m benchmarks.pytorch_tutorial

The plain program is the reference of the tests (`tests/helpers/tutorials/pytorch_tutorial.py`); it
computes the same numbers to the bit. Both run in turn, each time in its own process, with PyTorch's
default number of threads, and are timed after learning has started. Our program is run by the
command line, with `metrics.csv` and the episode log; evaluations, plots, TensorBoard and progress
bars are off.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from benchmarks.spent import Spent

WARM_UP = 200
ROOT = Path(__file__).parents[1]


class Watch(Callback):
    """Callback that times a run from environment step `WARM_UP` on and prints JSON."""

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        collector = trainer.datamodule.dataset.collector
        if collector.progress.env_steps == WARM_UP:
            self.spent = Spent()
            self.spent.measure(collector.envs, "step", "environment, screen")
            self.spent.measure(pl_module, "_policy", "acting")
            self.spent.measure(collector.replay, "write", "replay")
            self.spent.measure(collector.replay, "draw", "replay")
            self.spent.measure(pl_module._engine, "update", "update")
            self.started = time.perf_counter()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        print(json.dumps({"seconds": time.perf_counter() - self.started, "spent": self.spent}))


def ours(env_steps: int) -> None:
    from dqn_lightning.cli.main import main

    flags = {
        "config": ROOT / "configs" / "pytorch_tutorial.yaml",
        "data.schedule.total_episodes": "null",
        "data.schedule.total_env_steps": WARM_UP + env_steps,
        "data.schedule.rollout_env_steps": WARM_UP,
        "data.evaluation.every_env_steps": "null",
        "episode_log.live": "false",
        "episode_log.save_plots": "false",
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_checkpointing": "false",
    }
    main(
        [
            "fit",
            *(f"--{name}={value}" for name, value in flags.items()),
            "--trainer.callbacks+=benchmarks.pytorch_tutorial.Watch",
        ]
    )


def plain(env_steps: int) -> None:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    import gymnasium as gym
    import torch

    from tests.helpers.tutorials import pytorch_tutorial
    from tests.helpers.tutorials.pytorch_tutorial import BATCH_SIZE, Tutorial

    class Over(Exception):  # noqa: N818  (ends the run; not an error)
        pass

    spent = Spent()
    started = 0.0

    def explore(epsilon: float) -> int | None:
        nonlocal started
        if tutorial.steps_done == WARM_UP + 1:  # steps are counted before the action is selected
            for owner, name in ((env, "step"), (env, "reset"), (pytorch_tutorial, "get_screen")):
                spent.measure(owner, name, "environment, screen")
            spent.measure(tutorial, "optimize", "replay and update")
            started = time.perf_counter()
        if tutorial.steps_done == WARM_UP + env_steps + 1:
            raise Over
        return random.randrange(2) if random.random() <= epsilon else None

    torch.manual_seed(1)
    random.seed(1)
    env = gym.make("CartPole-v1", render_mode="rgb_array").unwrapped
    tutorial = Tutorial(env, explore, lambda count: random.sample(range(count), BATCH_SIZE))
    try:
        tutorial.play(10**9, seed=1)
    except Over:
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "spent": spent}))


PROGRAMS = {"dqn_lightning": ours, "plain PyTorch": plain}


def in_a_process(program: str, env_steps: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pytorch_tutorial", "--program", program]
    command += ["--env-steps", str(env_steps)]
    with tempfile.TemporaryDirectory() as directory:  # our program creates a run directory in it
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=directory, env=environment
        ).stdout
    return next(json.loads(line) for line in output.splitlines() if line.startswith("{"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--env-steps", type=int, default=500)
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    env_steps: int = arguments.env_steps
    if arguments.program:
        PROGRAMS[arguments.program](env_steps)
        return
    packages = ("torch", "lightning", "gymnasium")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
    results: dict[str, list[dict[str, Any]]] = {program: [] for program in PROGRAMS}
    for i in range(arguments.repeats):
        for program, runs in results.items():
            runs.append(in_a_process(program, env_steps))
        milliseconds = (f"{p} {1e3 * r[-1]['seconds'] / env_steps:.1f}" for p, r in results.items())
        print(f"{i + 1}: ms per step: " + ", ".join(milliseconds), flush=True)
    seconds = {p: statistics.median(run["seconds"] for run in runs) for p, runs in results.items()}
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*results.values(), strict=True)]
    print(
        f"\nplain / ours: of medians {seconds['plain PyTorch'] / seconds['dqn_lightning']:.2f}, "
        f"of pairs {min(ratios):.2f} to {max(ratios):.2f}"
    )
    for program, runs in results.items():
        print(f"\n{program}, last run, microseconds per step:")
        Spent(runs[-1]["spent"]).show(runs[-1]["seconds"], env_steps, rest="everything else")


if __name__ == "__main__":
    main()
