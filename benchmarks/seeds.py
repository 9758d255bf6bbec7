"""Train a config on several seeds, one after the other, and test each `best.ckpt`.

    python benchmarks/seeds.py configs/cartpole.yaml --seeds 1 2 3 4 5
    python benchmarks/seeds.py configs/cartpole.yaml configs/variants/c51.yaml

Prints one row per seed: the mean return over 100 episodes on other seeds than training and
evaluation had, its standard deviation, the least return, where the best evaluation was, and the
wall-clock seconds of the whole command, its start included. Runs are kept in checkpoints/.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"


def train_and_test(
    configs: list[Path], seed: int, flags: list[str]
) -> tuple[dict[str, float], float]:
    """The content of `test.json`, and the seconds that training took."""
    name = f"{'_'.join(config.stem for config in configs)}-seed-{seed}"
    if Path("checkpoints", name).exists():
        raise SystemExit(f"checkpoints/{name} is there already")
    fit = ["fit", "--run_name", name, "--seed_everything", str(seed)]
    for config in configs:
        fit += ["--config", str(config)]
    started = time.perf_counter()
    subprocess.run([sys.executable, str(TRAIN), *fit, *flags], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    test = ["test", "--ckpt_path", f"checkpoints/{name}/best.ckpt"]
    subprocess.run([sys.executable, str(TRAIN), *test], check=True, capture_output=True)
    return json.loads(Path("checkpoints", name, "test.json").read_text()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="+", help="the later ones change the first")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    arguments, flags = parser.parse_known_args()  # what is not ours is train.py's
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
