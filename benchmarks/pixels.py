"""CartPole from the PyTorch tutorial's patch of the screen: what solves it, and what it takes.

    python -m benchmarks.pixels                 # its two configs on five seeds
    python -m benchmarks.pixels --ablation      # one thing at a time as the tutorial has it

Evaluations choose `best.ckpt`; the test is of 100 episodes on seeds used nowhere else. Beside the
curves, the picture has that of `pytorch_tutorial.yaml`, cut, with evaluations of CartPole-v1. Two
runs at a time, one thread each; those that are in checkpoints/ already are not repeated.
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
ABLATION = {"total_env_steps": 6_000, "eval_every_env_steps": 1_000, "eval_episodes": 20}
"""Runs of the ablation are cut; the learning rate falls as in a whole one."""


def _class(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


def _ablations(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the tutorial has in place of what `cartpole_pixels.yaml` has, as changes of that."""
    network = config["model"]["network"]["init_args"]
    torso = network["torso"]
    convolutions = {"channels": [16, 32, 32], "kernel_sizes": [5] * 3, "strides": [2] * 3}
    difference = _class("dqn_lightning.networks.FrameDifference", scale=network["scale"])
    objective = _class("dqn_lightning.losses.DQN", loss="huber", double=True)
    online_acts = {"model": {"act_with_target": False}}
    rms_prop = _class("torch.optim.RMSprop", lr=0.01)
    return {
        "as it is": {},
        "difference of two screens": {
            "data": {"frame_stack": 2},
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
        "epsilon gone after 1 000 steps": {
            "data": {"epsilon": _class("dqn_lightning.Exponential", start=0.9, end=0.05, steps=200)}
        },
        "n = 1": {"data": {"n_step": 1}},
        "Huber loss of mean values": {"model": {"objective": objective}},
        "not double": {"model": {"objective": {"init_args": {"double": False}}}},
        "target every 10 episodes; the online network acts": {
            "target_sync": {"every_n_grad_steps": None, "every_n_episodes": 10, "tau": 1.0},
            **online_acts,
        },
        "gamma 0.999": {
            "data": {"gamma": 0.999},
            "model": {"objective": {"init_args": {"v_max": 400.0}}},  # all of 500 steps is 394
        },
        "2 000 rows": {"data": {"capacity": 2_000}},  # the tutorial's 10 000 hold all of a cut run
        "no shifts, no mirror images": {"data": {"augmentations": None}},
    }


def _torso(**init_args: Any) -> dict[str, Any]:
    """The network with another torso."""
    return {"init_args": {"torso": {"init_args": init_args}}}


def run(name: str, config: str, seed: int, changes: dict[str, Any] | None = None) -> Path:
    """Train one, unless that was done before; gives its folder."""
    flags = ["--config", str(CONFIGS / config), f"--seed_everything={seed}"]
    if changes:
        overlay = Path("checkpoints", f"{name}-changes.yaml")
        overlay.parent.mkdir(exist_ok=True)
        overlay.write_text(yaml.safe_dump(changes))
        flags += ["--config", str(overlay)]
    folder = trained(f"{name}-{seed}", flags)
    print(f"{name}, seed {seed}: {max(evaluations(folder).values()):.1f}", flush=True)
    return folder


def _tutorial(seed: int) -> Path:
    changes = {
        "num_threads": 1,
        "data": {
            "total_episodes": None,
            "total_env_steps": TUTORIAL_ENV_STEPS,
            "eval_every_env_steps": 1_000,
        },
        "episode_log": {"live": False},
    }
    return run("pixels-tutorial", "pytorch_tutorial.yaml", seed, changes)


def lasting(returns: dict[int, float]) -> str:
    """The share of evaluations after the first success that are as good as one."""
    successes = [steps for steps, value in returns.items() if value >= MARKS[-1]]
    if not successes:
        return "-"
    after = [value for steps, value in returns.items() if steps > successes[0]]
    good = sum(value >= LASTING for value in after)
    return f"{good} of {len(after)}"


def first(returns: dict[int, float], elapsed: dict[int, float], mark: float) -> str:
    """Where evaluations first reach a mark: environment steps, and minutes of the run."""
    reached = [steps for steps, value in returns.items() if value >= mark]
    if not reached:
        return "-"
    minutes = np.interp(reached[0], list(elapsed), list(elapsed.values())) / 60
    return f"{reached[0]:,} ({minutes:.1f} min)"


def show(folders: dict[int, Path]) -> None:
    """One row per seed."""
    marks = [f"≥ {mark}" for mark in MARKS]
    head = ["seed", *marks, f"≥ {LASTING} afterwards", "test", "least", "steps/s", "run"]
    head += ["environment", "acting", "updates", "evaluations"]
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for seed, folder in folders.items():
        returns, timing = evaluations(folder), partial(curve, folder, file="timing.csv")
        elapsed = timing("time/elapsed_s")
        steps, seconds = list(elapsed.items())[-1]
        row = [str(seed), *[first(returns, elapsed, mark) for mark in MARKS], lasting(returns)]
        test = tested(folder)
        row += [f"{test['return_mean']:.1f}", f"{test['return_min']:.0f}"]
        row += [f"{steps / seconds:.0f}", f"{seconds / 60:.1f} min"]
        for part in ("environment", "acting", "update"):
            shares = timing(f"time/{part}_share")
            at, since = list(shares), np.diff([0, *[elapsed[s] for s in shares]])
            row.append(f"{np.average([shares[s] for s in at], weights=since):.0%}")
        row.append(f"{timing('time/evaluation_s')[steps] / seconds:.0%}")
        print(f"| {' | '.join(row)} |")


def show_ablation(folders: dict[str, list[Path]]) -> None:
    """One row per change."""
    print("\n| | greatest evaluation | mean of the last three |\n|---|---|---|")
    for change, runs in folders.items():
        curves = [list(evaluations(folder).values()) for folder in runs]
        columns = [
            [max(values) for values in curves],
            [float(np.mean(values[-3:])) for values in curves],
        ]
        cells = [", ".join(f"{value:.0f}" for value in column) for column in columns]
        print(f"| {change} | {' | '.join(cells)} |")


def _plot(axes: Axes, runs: list[Path], colour: str, label: str | None = None) -> None:
    """The mean of runs, and each of them, thin."""
    curves = [evaluations(folder) for folder in runs]
    for returns in curves:
        axes.plot(list(returns), list(returns.values()), color=colour, lw=0.6, alpha=0.6)
    # Several environments make counts differ by a few steps.
    rows = list(zip(*[returns.items() for returns in curves], strict=False))
    steps, means = np.array(rows).mean(axis=1).T
    axes.plot(steps, means, color=colour, lw=1.8, label=label)


def _style(axes: Axes) -> None:
    axes.set_ylim(0, 510)
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:.0f}k")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _solved(config: str, seed: int) -> Path:
    folder = run(Path(config).stem.replace("_", "-"), config, seed)
    tested(folder)
    return folder


def solve(pool: ThreadPoolExecutor, seeds: list[int]) -> None:
    """The tables and the picture of both configs."""
    colours = {"cartpole_pixels.yaml": OURS, "cartpole_pixels_difference.yaml": DIFFERENCE}
    running = {config: pool.map(partial(_solved, config), seeds) for config in colours}
    tutorial = pool.submit(_tutorial, seeds[0])
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for config, folders in running.items():
        runs = list(folders)
        print(f"\n{config}")
        show(dict(zip(seeds, runs, strict=True)))
        _plot(axes, runs, colours[config], config)
    _plot(axes, [tutorial.result()], THEIRS, "pytorch_tutorial.yaml")
    axes.set(xlabel="environment steps", ylabel="return of evaluations")
    axes.set_title("CartPole-v1 from 40 x 90 pixels")
    axes.legend(frameon=False, loc="lower right")
    _style(axes)
    figure.savefig(Path(__file__).with_name("cartpole_pixels.png"), dpi=130)


def ablate(pool: ThreadPoolExecutor, seeds: list[int]) -> None:
    """The table and the picture of runs that are as the tutorial in one thing."""
    with (CONFIGS / "cartpole_pixels.yaml").open() as file:
        changes = _ablations(yaml.safe_load(file))

    def one(seed: int, change: str) -> Path:
        words = "".join(c if c.isalnum() else "-" for c in change)
        changed = {**changes[change], "data": {**ABLATION, **changes[change].get("data", {})}}
        return run(f"pixels-{words}", "cartpole_pixels.yaml", seed, changed)

    wanted = list(product(seeds, changes))
    done = list(pool.map(lambda job: one(*job), wanted))
    folders: dict[str, list[Path]] = {change: [] for change in changes}
    for (_, change), folder in zip(wanted, done, strict=True):
        folders[change].append(folder)
    show_ablation(folders)
    as_it_is, *others = folders
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panels = figure.subplots(3, 5, sharex=True, sharey=True).flat
    for change, axes in zip(others, panels, strict=False):
        _plot(axes, folders[as_it_is], "0.7")
        _plot(axes, folders[change], THEIRS)
        axes.set_title(fill(change, 28), fontsize=9)
        _style(axes)
    for axes in panels:  # what is left
        axes.set_axis_off()
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("return of evaluations; grey: as it is", fontsize=9)
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
