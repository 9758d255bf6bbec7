"""Train each idea of the DQN family alone, Rainbow, and Rainbow without each of its ideas.

    python -m benchmarks.family cartpole --seeds 1 2 3 4 5
    python -m benchmarks.family lunarlander --seeds 1 2 3 --env-steps 50000

Two runs at a time, one thread each; existing runs in checkpoints/ are not repeated. Two numbers are
reported per variant: the mean return of all evaluations (20 episodes each, greedy), which shows how
fast and how steadily it learns, and the mean return of `best.ckpt` over 100 other episodes. Both
are interquartile means over seeds with the 95 % interval of a percentile bootstrap over seeds
(Agarwal et al. 2021). Learning curves are drawn into `family_TASK.png` in this directory.
"""

import argparse
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import CONFIGS, evaluations, tested, trained

OBJECTIVE = "--model.objective=dqn_lightning.losses."
RETURNS = {"cartpole": (0, 100), "lunarlander": (-6, 6)}
"""Minimum and maximum of the support of C51, in units of scaled rewards."""
RAINBOW = ("c51", "double", "dueling", "n-step", "prioritized", "noisy")
ALONE = (*RAINBOW, "QR-DQN", "IQN", "Munchausen", "rescaled", "layer norm")
FLAGS = {
    "dueling": ["--model.dueling=true"],
    "n-step": ["--data.replay.n_step=3"],
    "prioritized": ["--data.replay.sampler=dqn_lightning.replay.Prioritized"],
    "noisy": ["--model.noisy=true", "--data.exploration.epsilon=0"],
    "Munchausen": ["--model.objective.munchausen.alpha=0.9"],
    "rescaled": ["--model.objective.rescaled=true"],
    "layer norm": ["--model.network.layer_norm=true"],
}
VARIANTS: dict[str, tuple[str, ...]] = {
    "DQN": (),
    **{idea: (idea,) for idea in ALONE},
    "Rainbow": RAINBOW,
    **{f"Rainbow - {idea}": tuple(i for i in RAINBOW if i != idea) for idea in RAINBOW},
}


def flags(task: str, ideas: tuple[str, ...]) -> list[str]:
    """Return the flags that add these ideas to plain DQN."""
    if "c51" in ideas:
        least, greatest = RETURNS[task]
        chosen = [f"{OBJECTIVE}C51", f"--model.objective.v_min={least}"]
        chosen.append(f"--model.objective.v_max={greatest}")
    elif "QR-DQN" in ideas:
        chosen = [f"{OBJECTIVE}QRDQN", "--model.objective.num_quantiles=32"]
    else:
        chosen = [f"{OBJECTIVE}{'IQN' if 'IQN' in ideas else 'DQN'}"]
    # Always set, because the config's value would persist when the class changes.
    chosen.append(f"--model.objective.double={'true' if 'double' in ideas else 'false'}")
    chosen.append("--data.replay.n_step=1")
    return [*chosen, *(flag for idea in ideas for flag in FLAGS.get(idea, []))]


def run(task: str, env_steps: int | None, variant: str, seed: int) -> Path:
    """Train and test one run unless it exists, and return its directory."""
    words = "".join(c if c.isalnum() else "_" for c in variant)
    length = f"-{env_steps}" if env_steps is not None else ""
    fit = ["--config", str(CONFIGS / f"{task}.yaml"), f"--seed_everything={seed}"]
    fit += ["--data.evaluation.episodes=20", *flags(task, VARIANTS[variant])]
    if env_steps is not None:
        fit.append(f"--data.schedule.total_env_steps={env_steps}")
    directory = trained(f"family-{task}{length}-{words}-{seed}", fit)
    print(f"{variant}, seed {seed}: {tested(directory)['return_mean']:.1f}", flush=True)
    return directory


def interquartile_mean(values: Any, axis: int = -1) -> Any:
    """Return the mean of the middle half of the values."""
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def with_interval(values: list[float]) -> str:
    """Format the interquartile mean with its bootstrap interval over seeds."""
    from scipy.stats import bootstrap

    mean = interquartile_mean(np.array(values))
    if len(set(values)) == 1:
        return f"{mean:.1f}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with few seeds, some resamples are constant
        interval = bootstrap(
            (values,), interquartile_mean, method="percentile", n_resamples=10_000, rng=0
        ).confidence_interval
    return f"{mean:.1f} ({interval.low:.1f} to {interval.high:.1f})"


def show(task: str, directories: dict[str, list[Path]]) -> None:
    """Print the table of all variants."""
    print("\n| variant | mean evaluation | `best.ckpt` | by seed |\n|---|---|---|---|")
    for variant, runs in directories.items():
        over_run = [float(np.mean(list(evaluations(directory).values()))) for directory in runs]
        of_best = [tested(directory)["return_mean"] for directory in runs]
        by_seed = ", ".join(f"{value:.0f}" for value in of_best)
        print(f"| {variant} | {with_interval(over_run)} | {with_interval(of_best)} | {by_seed} |")


def draw(task: str, directories: dict[str, list[Path]]) -> None:
    """Draw evaluations: single ideas on the left, Rainbow and its ablations on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    alone = {v: runs for v, runs in directories.items() if "Rainbow" not in v}
    rainbow = {v: runs for v, runs in directories.items() if "Rainbow" in v}
    for axes, variants in zip(panels, (alone, rainbow), strict=True):
        for i, (variant, runs) in enumerate(variants.items()):
            curves = [evaluations(directory) for directory in runs]
            steps = sorted(set.intersection(*(set(curve) for curve in curves)))
            heights = interquartile_mean(np.array([[c[s] for s in steps] for c in curves]), axis=0)
            smooth = [np.mean(heights[max(0, j - 2) : j + 1]) for j in range(len(steps))]
            plain = variant in ("DQN", "Rainbow")
            axes.plot(
                steps, smooth, "k" if plain else f"C{i % 10}", label=variant,
                linewidth=2 if plain else 1, linestyle="--" if i > 10 else "-",
            )  # fmt: skip
        axes.set_xlabel("environment steps")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    panels[0].set_ylabel(f"{task}: return, means of three evaluations")
    figure.savefig(Path(__file__).with_name(f"family_{task}.png"), dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=list(RETURNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--env-steps", type=int, help="cut runs to so many")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    arguments = parser.parse_args()
    wanted = [(v, seed) for seed in arguments.seeds for v in arguments.variants]
    train = partial(run, arguments.task, arguments.env_steps)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = list(pool.map(lambda one: train(*one), wanted))
    directories: dict[str, list[Path]] = {variant: [] for variant in arguments.variants}
    for (variant, _), directory in zip(wanted, done, strict=True):
        directories[variant].append(directory)
    show(arguments.task, directories)
    draw(arguments.task, directories)


if __name__ == "__main__":
    main()
