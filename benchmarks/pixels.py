"""Solve CartPole from the PyTorch tutorial's patch of the screen, and ablate the solution.

    python -m benchmarks.pixels                 # two configs on five seeds
    python -m benchmarks.pixels --ablation      # one setting at a time from the tutorial

Evaluations choose `best.ckpt`; the test plays 100 episodes on seeds used nowhere else. The figure
also shows a shortened run of `pytorch_tutorial.yaml` with evaluations on CartPole-v1. Two runs at a
time, one thread each; existing runs in checkpoints/ are not repeated.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.runs import CONFIGS, curve, evaluations, tested, trained

MARKS = (200, 400, 475)
LASTING = 450
TUTORIAL_ENV_STEPS = 10_000
OURS, DIFFERENCE, THEIRS = "#0072b2", "#009e73", "#d55e00"
ABLATION = {
    "schedule": {"total_env_steps": 6_000},
    "evaluation": {"every_env_steps": 1_000, "episodes": 20},
}
"""Runs of the ablation are shortened; the learning rate decays as in a full run."""


def _class(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


def _ablations(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the changes to `cartpole_pixels.yaml` that restore one setting of the tutorial."""
    network = config["model"]["network"]["init_args"]
    torso = network["torso"]
    convolutions = {"channels": [16, 32, 32], "kernel_sizes": [5] * 3, "strides": [2] * 3}
    difference = _class("dqn_lightning.networks.FrameDifference", scale=network["scale"])
    objective = _class("dqn_lightning.losses.DQN", loss="huber", double=True)
    online_acts = {"model": {"act_with_target": False}}
    exponential = _class("dqn_lightning.Exponential", start=0.9, end=0.05, steps=200)
    rms_prop = _class("torch.optim.RMSprop", lr=0.01)
    return {
        "unchanged": {},
        "difference of two screens": {
            "data": {"replay": {"frame_stack": 2}},
            "model": {"network": difference},
        },
        "four screens, no differences": {"model": {"network": torso}},
        "the tutorial's convolutions": {"model": {"network": _torso(**convolutions)}},
        "the online network acts": online_acts,
        "BatchNorm; the online network acts": {
            "model": {
                "network": _torso(batch_norm=True),
                "act_with_target": False,
                "act_in_train_mode": True,
            }
        },
        "RMSprop, rate 0.01": {"model": {"optimizer": rms_prop, "lr_scheduler": None}},
        "epsilon gone after 1 000 steps": {"data": {"exploration": {"epsilon": exponential}}},
        "n = 1": {"data": {"replay": {"n_step": 1}}},
        "Huber loss of mean values": {"model": {"objective": objective}},
        "not double": {"model": {"objective": {"init_args": {"double": False}}}},
        "target every 10 episodes; the online network acts": {
            "target_sync": {"every_n_grad_steps": None, "every_n_episodes": 10, "tau": 1.0},
            **online_acts,
        },
        "gamma 0.999": {
            "data": {"replay": {"gamma": 0.999}},
            "model": {
                "objective": {"init_args": {"v_max": 400.0}}
            },  # the discounted return of 500 steps is 394
        },
        # The tutorial's 10 000 rows would hold all of a shortened run.
        "2 000 rows": {"data": {"replay": {"capacity": 2_000}}},
        "no shifts, no mirror images": {"data": {"replay": {"augmentations": None}}},
    }


def _torso(**init_args: Any) -> dict[str, Any]:
    """Return a change of the torso within the network."""
    return {"init_args": {"torso": {"init_args": init_args}}}


def run(name: str, config: str, seed: int, changes: dict[str, Any] | None = None) -> Path:
    """Train one run unless it exists, and return its directory."""
    flags = ["--config", str(CONFIGS / config), f"--seed_everything={seed}"]
    if changes:
        overlay = Path("checkpoints", f"{name}-changes.yaml")
        overlay.parent.mkdir(exist_ok=True)
        overlay.write_text(yaml.safe_dump(changes))
        flags += ["--config", str(overlay)]
    directory = trained(f"{name}-{seed}", flags)
    print(f"{name}, seed {seed}: {max(evaluations(directory).values()):.1f}", flush=True)
    return directory


def _tutorial(seed: int) -> Path:
    changes = {
        "num_threads": 1,
        "data": {
            "schedule": {"total_episodes": None, "total_env_steps": TUTORIAL_ENV_STEPS},
            "evaluation": {"every_env_steps": 1_000},
        },
        "episode_log": {"live": False},
    }
    return run("pixels-tutorial", "pytorch_tutorial.yaml", seed, changes)


def lasting(returns: dict[int, float]) -> str:
    """Return how many evaluations after the first success reach `LASTING`."""
    successes = [steps for steps, value in returns.items() if value >= MARKS[-1]]
    if not successes:
        return "-"
    after = [value for steps, value in returns.items() if steps > successes[0]]
    good = sum(value >= LASTING for value in after)
    return f"{good} of {len(after)}"


def first(returns: dict[int, float], elapsed: dict[int, float], mark: float) -> str:
    """Return environment steps and minutes until an evaluation first reaches a mark."""
    reached = [steps for steps, value in returns.items() if value >= mark]
    if not reached:
        return "-"
    minutes = np.interp(reached[0], list(elapsed), list(elapsed.values())) / 60
    return f"{reached[0]:,} ({minutes:.1f} min)"


def show(directories: dict[int, Path]) -> None:
    """Print one row per seed."""
    marks = [f"≥ {mark}" for mark in MARKS]
    head = ["seed", *marks, f"≥ {LASTING} afterwards", "test", "least", "steps/s", "run"]
    head += ["environment", "acting", "updates", "evaluations"]
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for seed, directory in directories.items():
        returns, timing = evaluations(directory), partial(curve, directory, file="timing.csv")
        elapsed = timing("time/elapsed_s")
        steps, seconds = list(elapsed.items())[-1]
        row = [str(seed), *[first(returns, elapsed, mark) for mark in MARKS], lasting(returns)]
        test = tested(directory)
        row += [f"{test['return_mean']:.1f}", f"{test['return_min']:.0f}"]
        row += [f"{steps / seconds:.0f}", f"{seconds / 60:.1f} min"]
        for part in ("environment", "acting", "update"):
            shares = timing(f"time/{part}_share")
            at, since = list(shares), np.diff([0, *[elapsed[s] for s in shares]])
            row.append(f"{np.average([shares[s] for s in at], weights=since):.0%}")
        row.append(f"{timing('time/evaluation_s')[steps] / seconds:.0%}")
        print(f"| {' | '.join(row)} |")


def show_ablation(directories: dict[str, list[Path]]) -> None:
    """Print one row per change."""
    print("\n| | greatest evaluation | mean of the last three |\n|---|---|---|")
    for change, runs in directories.items():
        curves = [list(evaluations(directory).values()) for directory in runs]
        columns = [
            [max(values) for values in curves],
            [float(np.mean(values[-3:])) for values in curves],
        ]
        cells = [", ".join(f"{value:.0f}" for value in column) for column in columns]
        print(f"| {change} | {' | '.join(cells)} |")


def _plot(axes: Axes, runs: list[Path], color: str, label: str | None = None) -> None:
    """Draw each run as a thin line, and their mean as a thick one."""
    curves = [evaluations(directory) for directory in runs]
    for returns in curves:
        axes.plot(list(returns), list(returns.values()), color=color, lw=0.6, alpha=0.6)
    # With several environments, step counts differ by a few.
    rows = list(zip(*[returns.items() for returns in curves], strict=False))
    steps, means = np.array(rows).mean(axis=1).T
    axes.plot(steps, means, color=color, lw=1.8, label=label)


def _style(axes: Axes) -> None:
    axes.set_ylim(0, 510)
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:.0f}k")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _solved(config: str, seed: int) -> Path:
    directory = run(Path(config).stem.replace("_", "-"), config, seed)
    tested(directory)
    return directory


def solve(pool: ThreadPoolExecutor, seeds: list[int]) -> None:
    """Train both configs, print their tables and draw the figure."""
    colors = {"cartpole_pixels.yaml": OURS, "cartpole_pixels_difference.yaml": DIFFERENCE}
    running = {config: pool.map(partial(_solved, config), seeds) for config in colors}
    tutorial = pool.submit(_tutorial, seeds[0])
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for config, directories in running.items():
        runs = list(directories)
        print(f"\n{config}")
        show(dict(zip(seeds, runs, strict=True)))
        _plot(axes, runs, colors[config], config)
    _plot(axes, [tutorial.result()], THEIRS, "pytorch_tutorial.yaml")
    axes.set(xlabel="environment steps", ylabel="return of evaluations")
    axes.set_title("CartPole-v1 from 40 x 90 pixels")
    axes.legend(frameon=False, loc="lower right")
    _style(axes)
    figure.savefig(Path(__file__).with_name("cartpole_pixels.png"), dpi=130)


def ablate(pool: ThreadPoolExecutor, seeds: list[int]) -> None:
    """Train the ablations, print their table and draw the figure."""
    with (CONFIGS / "cartpole_pixels.yaml").open() as file:
        changes = _ablations(yaml.safe_load(file))

    def one(seed: int, change: str) -> Path:
        words = "".join(c if c.isalnum() else "-" for c in change)
        changed = {**changes[change], "data": {**ABLATION, **changes[change].get("data", {})}}
        return run(f"pixels-{words}", "cartpole_pixels.yaml", seed, changed)

    wanted = list(product(seeds, changes))
    done = list(pool.map(lambda job: one(*job), wanted))
    directories: dict[str, list[Path]] = {change: [] for change in changes}
    for (_, change), directory in zip(wanted, done, strict=True):
        directories[change].append(directory)
    show_ablation(directories)
    unchanged, *others = directories
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panels = figure.subplots(3, 5, sharex=True, sharey=True).flat
    for change, axes in zip(others, panels, strict=False):
        _plot(axes, directories[unchanged], "0.7")
        _plot(axes, directories[change], THEIRS)
        axes.set_title(fill(change, 28), fontsize=9)
        _style(axes)
    for axes in panels:  # unused panels
        axes.set_axis_off()
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("return of evaluations; gray: unchanged", fontsize=9)
    figure.savefig(Path(__file__).with_name("cartpole_pixels_ablation.png"), dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--ablation", action="store_true")
    arguments = parser.parse_args()
    seeds = arguments.seeds or ([1, 2, 3] if arguments.ablation else [1, 2, 3, 4, 5])
    with ThreadPoolExecutor(arguments.jobs) as pool:
        if arguments.ablation:
            ablate(pool, seeds)
        else:
            solve(pool, seeds)


if __name__ == "__main__":
    main()
