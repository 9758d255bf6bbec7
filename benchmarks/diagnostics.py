"""Draw a healthy run on CartPole-v1 and four deliberately broken ones: `docs/diagnostics.png`.

    python -m benchmarks.diagnostics

Each broken run is `configs/cartpole.yaml`, seed 1, with one setting changed. Runs are kept in
checkpoints/; existing ones are not repeated.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.runs import CONFIGS, ROOT, curve, trained

RUNS: dict[str, list[str]] = {
    "healthy": [],
    "target never synced": ["--target_sync.every_n_env_steps=1000000000"],
    "learning rate 0.1": ["--model.optimizer.lr=0.1"],
    "epsilon 0 from the start": ["--data.exploration.epsilon=0"],
    "replay of 300 rows": ["--data.replay.capacity=300"],
}
PANELS = {
    "eval/return_mean": "return of evaluations",
    "diagnostics/q_mean": "mean action value (line), return reached (dots)",
    "diagnostics/overestimation": "action value minus return reached",
    "diagnostics/dormant_share": "share of dormant units",
    "diagnostics/effective_rank": "rank of the features",
    "diagnostics/gradient_norm": "norm of the gradient",
    "diagnostics/target_distance": "distance of the target from the online network",
    "diagnostics/row_age_mean": "mean age of the rows drawn (steps)",
}
LOGARITHMIC = {"diagnostics/q_mean", "diagnostics/gradient_norm", "diagnostics/row_age_mean"}
SYMMETRIC = {"diagnostics/overestimation"}
COLORS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7"]
STYLES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]


def run(number: int, flags: list[str]) -> Path:
    """Train a run unless it exists, and return its directory."""
    return trained(f"diagnostics-{number}", ["--config", str(CONFIGS / "cartpole.yaml"), *flags])


def draw(axes: Axes, column: str, runs: dict[str, Path]) -> None:
    for (name, directory), color, style in zip(runs.items(), COLORS, STYLES, strict=True):
        values = curve(directory, column)
        axes.plot(
            list(values), list(values.values()), color=color, linestyle=style, label=name,
            linewidth=1.4,
        )  # fmt: skip
        if column == "diagnostics/q_mean":
            returns = curve(directory, "diagnostics/return_mean")
            axes.plot(list(returns), list(returns.values()), ".", color=color, markersize=3)
    axes.set_title(PANELS[column], fontsize=9)
    if column in LOGARITHMIC:
        axes.set_yscale("log")
    if column in SYMMETRIC:
        axes.set_yscale("symlog", linthresh=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:.0f}k")


def main() -> None:
    runs = {name: run(i, flags) for i, (name, flags) in enumerate(RUNS.items())}
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(2, 4).flat
    for axes, column in zip(panels, PANELS, strict=True):
        draw(axes, column, runs)
    figure.supxlabel("environment steps", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(ROOT / "docs" / "diagnostics.png", dpi=110)


if __name__ == "__main__":
    main()
