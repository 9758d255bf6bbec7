"""A healthy run on CartPole-v1 beside four that were made sick on purpose: `docs/health.png`.

    python -m benchmarks.health

Each is `configs/cartpole.yaml`, seed 1, but for one setting. Runs stay in checkpoints/, those that
are there already are not repeated.
"""

import csv
import subprocess
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RUNS: dict[str, list[str]] = {
    "healthy": [],
    "target never synced": ["--target_sync.every_n_env_steps=1000000000"],
    "learning rate 0.1": ["--model.optimizer.lr=0.1"],
    "epsilon 0 from the start": ["--data.epsilon=0"],
    "replay of 300 rows": ["--data.capacity=300"],
}
PANELS = {
    "eval/return_mean": "return of evaluations",
    "health/q_mean": "mean action value (line), return reached (dots)",
    "health/overestimation": "action value minus return reached",
    "health/dormant_share": "share of dormant units",
    "health/effective_rank": "rank of the features",
    "health/gradient_norm": "norm of the gradient",
    "health/target_distance": "distance of the target from the online network",
    "health/row_age_mean": "mean age of the rows drawn (steps)",
}
LOGARITHMIC = {"health/q_mean", "health/gradient_norm", "health/row_age_mean"}
SYMMETRIC = {"health/overestimation"}
COLOURS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7"]
STYLES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]


def run(number: int, flags: list[str]) -> list[dict[str, str]]:
    """Train, unless that was done before; gives the rows of `metrics.csv`."""
    folder = Path("checkpoints", f"health-{number}")
    if not (folder / "last.ckpt").exists():
        fit = ["fit", "--config", str(ROOT / "configs" / "cartpole.yaml")]
        fit += ["--run_name", folder.name, *flags]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *fit], check=True)
    with (folder / "metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def draw(axes: Axes, column: str, runs: dict[str, list[dict[str, str]]]) -> None:
    for (name, rows), colour, style in zip(runs.items(), COLOURS, STYLES, strict=True):
        steps, values = series(rows, column)
        axes.plot(steps, values, color=colour, linestyle=style, label=name, linewidth=1.4)
        if column == "health/q_mean":
            axes.plot(*series(rows, "health/return_mean"), ".", color=colour, markersize=3)
    axes.set_title(PANELS[column], fontsize=9)
    if column in LOGARITHMIC:
        axes.set_yscale("log")
    if column in SYMMETRIC:
        axes.set_yscale("symlog", linthresh=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:.0f}k")


def series(rows: list[dict[str, str]], column: str) -> tuple[list[int], list[float]]:
    there = [row for row in rows if row.get(column)]
    return [int(row["env_steps"]) for row in there], [float(row[column]) for row in there]


def main() -> None:
    runs = {name: run(i, flags) for i, (name, flags) in enumerate(RUNS.items())}
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(2, 4).flat
    for axes, column in zip(panels, PANELS, strict=True):
        draw(axes, column, runs)
    figure.supxlabel("environment steps", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(ROOT / "docs" / "health.png", dpi=110)


if __name__ == "__main__":
    main()
