"""How far the tutorials learn: five seeds each, the first one once for 300 episodes too.

    python -m benchmarks.tutorials

Trains what is not in `checkpoints/` yet, tests each run's last weights on 100 episodes of
CartPole-v1 (its own reward, at most 500 steps), prints a table, and draws every run's episodes into
`docs/tutorials.png`.
"""

import csv
import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.runs import CONFIGS, ROOT, train_py, trained
from dqn_lightning.plots.episodes import DURATION, RETURN

SEEDS = (1, 2, 3, 4, 5)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
PANELS = {
    "PyTorch tutorial": ("pytorch_tutorial", SEEDS, {}, "train/episode_length", DURATION),
    "PyTorch tutorial, 300 episodes": (
        "pytorch_tutorial",
        (1,),
        {"data.total_episodes": 300},
        "train/episode_length",
        DURATION,
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
    """The folder of a run, which is made if it is not there."""
    name = "-".join([config, *map(str, settings.values()), "seed", str(seed)])
    flags = {"config": CONFIGS / f"{config}.yaml", "seed_everything": seed, **settings}
    return trained(name, [f"--{flag}={value}" for flag, value in flags.items()])


def test(folder: Path) -> dict[str, float]:
    """What the last weights play."""
    train_py("test", "--ckpt_path", str(folder / "last.ckpt"))
    return json.loads((folder / "test.json").read_text())


def episodes(folder: Path, column: str) -> list[float]:
    """A column of `metrics.csv`, one value per training episode."""
    with (folder / "metrics.csv").open(newline="") as lines:
        return [float(row[column]) for row in csv.DictReader(lines) if row[column]]


def main() -> None:
    figure = Figure(figsize=(10, 7), layout="constrained")
    print("| | seed | steps | mean length of the last 10 | longest | then plays |")
    print("|---|---|---|---|---|---|")
    for axes, (title, (config, seeds, settings, column, label)) in zip(
        figure.subplots(2, 2).flat, PANELS.items(), strict=True
    ):
        for seed, colour in zip(seeds, COLOURS, strict=False):
            folder = train(config, seed, settings)
            values, durations = episodes(folder, column), episodes(folder, "train/episode_length")
            result = test(folder)
            axes.plot(values, color=colour, alpha=0.7, linewidth=0.8, label=f"seed {seed}")
            print(
                f"| {title} | {seed} | {sum(durations):,.0f} "
                f"| {statistics.mean(durations[-10:]):,.0f} | {max(durations):,.0f} "
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
