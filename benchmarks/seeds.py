"""Train a config on several seeds, one after another, and test each `best.ckpt`.

    python -m benchmarks.seeds configs/cartpole.yaml --seeds 1 2 3 4 5
    python -m benchmarks.seeds configs/cartpole.yaml configs/variants/c51.yaml

Prints one row per seed: the mean return over 100 episodes on seeds that neither training nor
evaluation used, its standard deviation, the lowest return, the step of the best evaluation, and the
wall-clock seconds of the whole command including its start. Runs are kept in checkpoints/.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.runs import tested, trained


def train_and_test(
    configs: list[Path], seed: int, flags: list[str]
) -> tuple[dict[str, Any], float]:
    """Return the content of `test.json` and the training time in seconds."""
    name = f"{'_'.join(config.stem for config in configs)}-seed-{seed}"
    if Path("checkpoints", name).exists():
        raise SystemExit(f"checkpoints/{name} is there already")
    fit = [f"--seed_everything={seed}"]
    for config in configs:
        fit += ["--config", str(config)]
    started = time.perf_counter()
    directory = trained(name, [*fit, *flags])
    seconds = time.perf_counter() - started
    return tested(directory), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="+", help="the later ones change the first")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    arguments, flags = parser.parse_known_args()  # unknown flags are passed to train.py
    print("| seed | return | std | least | best at step | seconds |\n|---|---|---|---|---|---|")
    means, times = [], []
    for seed in arguments.seeds:
        result, seconds = train_and_test(arguments.configs, seed, flags)
        means.append(result["return_mean"])
        times.append(seconds)
        print(
            f"| {seed} | {result['return_mean']:.1f} | {result['return_std']:.1f} "
            f"| {result['return_min']:.1f} | {result['env_steps']:,} | {seconds:.0f} |",
            flush=True,
        )
    print(f"\nmean {statistics.mean(means):.1f}, median seconds {statistics.median(times):.0f}")


if __name__ == "__main__":
    main()
