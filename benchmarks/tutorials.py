"""Train both tutorials on five seeds each, and the first one also for 300 episodes.

    python -m benchmarks.tutorials

Trains the runs that are not in `checkpoints/` yet, tests the last weights of each run on 100
episodes of CartPole-v1 (its own reward, at most 500 steps), prints a table, and draws all training
episodes into `docs/tutorials.png`.
"""

import csv
import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.runs import CONFIGS, ROOT, train_py, trained
from dqn_lightning.plots.episodes import LENGTH, RETURN

SEEDS = (1, 2, 3, 4, 5)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
PANELS = {
    "PyTorch tutorial": ("pytorch_tutorial", SEEDS, {}, "train/episode_length", LENGTH),
    "PyTorch tutorial, 300 episodes": (
        "pytorch_tutorial",
        (1,),
        {"data.schedule.total_episodes": 300},
        "train/episode_length",
        LENGTH,
    ),
    "MorvanZhou, shaped reward": (
        "morvan_tutorial",
        SEEDS,
        {},
        "train/episode_return",
        f"{RETURN} (shaped)",
    ),
    "MorvanZhou, as printed": (
        "morvan_tutorial_as_printed",
        SEEDS,
        {},
        "train/episode_return",
        RETURN,
    ),
}


def train(config: str, seed: int, settings: dict[str, int]) -> Path:
    """Train a run unless it exists, and return its directory."""
    name = "-".join([config, *map(str, settings.values()), "seed", str(seed)])
    flags = {"config": CONFIGS / f"{config}.yaml", "seed_everything": seed, **settings}
    return trained(name, [f"--{flag}={value}" for flag, value in flags.items()])


def test(directory: Path) -> dict[str, float]:
    """Test the last weights of a run, and return the content of `test.json`."""
    train_py("test", "--ckpt_path", str(directory / "last.ckpt"))
    return json.loads((directory / "test.json").read_text())


def episodes(directory: Path, column: str) -> list[float]:
    """Return a column of `metrics.csv`, one value per training episode."""
    with (directory / "metrics.csv").open(newline="") as lines:
        return [float(row[column]) for row in csv.DictReader(lines) if row[column]]


def main() -> None:
    figure = Figure(figsize=(10, 7), layout="constrained")
    print("| | seed | steps | mean length of the last 10 | longest | return of the last weights |")
    print("|---|---|---|---|---|---|")
    for axes, (title, (config, seeds, settings, column, label)) in zip(
        figure.subplots(2, 2).flat, PANELS.items(), strict=True
    ):
        for seed, color in zip(seeds, COLORS, strict=False):
            directory = train(config, seed, settings)
            values, lengths = (
                episodes(directory, column),
                episodes(directory, "train/episode_length"),
            )
            result = test(directory)
            axes.plot(values, color=color, alpha=0.7, linewidth=0.8, label=f"seed {seed}")
            print(
                f"| {title} | {seed} | {sum(lengths):,.0f} "
                f"| {statistics.mean(lengths[-10:]):,.0f} | {max(lengths):,.0f} "
                f"| {result['return_mean']:.1f} ± {result['return_std']:.1f} |",
                flush=True,
            )
        axes.set(title=title, xlabel="episode", ylabel=label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
    figure.savefig(ROOT / "docs" / "tutorials.png", dpi=100)


if __name__ == "__main__":
    main()
