"""Compare the speed with other programs that run the same algorithm with the same settings.

    python -m benchmarks.throughput [--part speed|update|parts|split|solve]

Without `--part` all parts run, in about 40 minutes. Programs run in turn, each time in a separate
process; ours always uses one thread, the others one or two, whichever is faster. Start-up (imports,
filling the replay, recording, the first 300 updates) is reported, not counted.

- `speed`: environment steps per second on CartPole-v1 at CleanRL's settings (`dqn.py`): an MLP
  4-120-84-2, batches of 128, one update every 10 steps, a replay of 10 000, Adam at 2.5e-4, the
  target copied every 500 steps; epsilon is CleanRL's final 0.05 from the start, so the network acts
  almost always. Real environment steps and updates are counted, and must be equal.
- `update`: microseconds per update of every objective and head, by engine (`update.py`).
- `parts`: prioritized sampling and distributional losses next to the peers' (`parts.py`).
- `solve`: seconds of training, and environment steps, until a greedy mean of 475 over 100 episodes.
  Evaluations are not counted.
- `split`: time per part of a step.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.plain_loop import (
    BATCH,
    CAPACITY,
    EPSILON,
    EVERY,
    LEARNING_RATE,
    LEARNING_STARTS,
    TARGET_EVERY,
)
from benchmarks.processes import last_line
from benchmarks.spent import Spent

WARM_UP = 4_000
PACKAGES = (
    "torch",
    "lightning",
    "gymnasium",
    "numpy",
    "stable-baselines3",
    "tianshou",
    "torchrl",
)


# One program, in a separate process --------------------------------------------------------------


class Counter:
    """Counts the steps of environments."""

    steps = 0


def counted(env: Any) -> Any:
    """Return the environment, which now counts its steps in `Counter`."""
    step = env.step

    def counting(action: Any) -> Any:
        Counter.steps += 1
        return step(action)

    env.step = counting
    return env


def ours(
    env_steps: int,
    engine: Any = "auto",
    num_envs: int = 1,
    clamped: bool = False,
    images: bool = False,
    split: bool = False,
) -> dict[str, float]:
    """Train our program with the loggers and callbacks of the command line.

    With `clamped` it uses the Huber loss and clamps gradients to norm 10, as Stable-Baselines3
    always does; otherwise the squared error without clamping, as CleanRL does. With `images` it
    trains the Nature CNN on stacks of four images, with batches of 32 every 4 steps, in an
    environment whose steps cost nothing.
    """
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything

    from dqn_lightning import (
        DQNDataModule,
        DQNModule,
        EnvSettings,
        EvaluationSettings,
        ExplorationSettings,
        ReplaySettings,
        ScheduleSettings,
    )
    from dqn_lightning.callbacks import EpisodeLog, GradientClamp, TargetSync, Timing
    from dqn_lightning.loggers.csv import CSVLogger
    from dqn_lightning.losses import DQN
    from dqn_lightning.networks import CNN, MLP

    seed_everything(1, verbose=False)
    data = DQNDataModule(
        EnvSettings(
            id="benchmarks.images:Images-v0" if images else "CartPole-v1",
            wrappers=[counted] if num_envs == 1 else [],
            num_envs=num_envs,
        ),
        replay=ReplaySettings(
            frame_stack=4 if images else 1,
            capacity=CAPACITY,
            batch_size=32 if images else BATCH,
        ),
        schedule=ScheduleSettings(
            learning_starts_env_steps=WARM_UP - 100 if images else LEARNING_STARTS,
            train_every_env_steps=4 if images else EVERY,
            total_env_steps=WARM_UP + env_steps,
        ),
        exploration=ExplorationSettings(epsilon=EPSILON),
        evaluation=EvaluationSettings(every_env_steps=None),
    )
    module = DQNModule(
        data.obs_shape,
        data.num_actions,
        network=CNN if images else partial(MLP, widths=(120, 84)),
        objective=DQN("huber" if clamped else "squared"),
        optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE, fused=True),
        engine=engine,
    )
    marks: list[tuple[float, int, int]] = []
    spent = Spent()

    def mark(trainer: Any) -> None:
        steps = Counter.steps or trainer.datamodule.dataset.collector.progress.env_steps
        marks.append((time.perf_counter(), steps, trainer.global_step))

    class Watch(Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            if pl_module.progress.env_steps // 1_000 != WARM_UP // 1_000 or marks:
                return
            mark(trainer)
            if split:
                collector = trainer.datamodule.dataset.collector
                spent.measure(collector.envs, "step", "environment")
                spent.measure(pl_module, "_policy", "acting")
                spent.measure(collector.replay, "write", "replay, writing")
                spent.measure(collector.replay, "draw", "replay, sampling")
                spent.measure(pl_module._engine, "update", "update")
                spent.measure(pl_module, "log_metrics", "logging")

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            mark(trainer)

    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            logger=CSVLogger(Path(directory)),
            log_every_n_steps=100,
            callbacks=[
                Watch(),
                TargetSync(every_n_env_steps=TARGET_EVERY),
                *([GradientClamp(norm=10.0)] if clamped else []),
                EpisodeLog(),
                Timing(),
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=data)
    (start, steps_then, updates_then), (end, steps, updates) = marks
    result = {
        "seconds": end - start,
        "env_steps": steps - steps_then,
        "updates": updates - updates_then,
    }
    return {**result, **spent} if split else result


def plain_loop(env_steps: int) -> dict[str, float]:
    from benchmarks import plain_loop

    return plain_loop.train(WARM_UP, env_steps, counted)


def peer(name: str, env_steps: int) -> dict[str, float]:
    from benchmarks import peers

    result: dict[str, float] = getattr(peers, name)(WARM_UP, env_steps, counted)
    assert Counter.steps >= WARM_UP + env_steps, "environment steps are missing"
    return result


OURS: dict[str, Callable[[int], dict[str, float]]] = {
    "dqn_lightning": ours,
    "dqn_lightning, 16 environments": partial(ours, num_envs=16),
    "dqn_lightning, eager": partial(ours, engine="eager"),
    "dqn_lightning, clamped": partial(ours, clamped=True),
}
PEERS: dict[str, Callable[[int], dict[str, float]]] = {
    "plain loop": plain_loop,
    "Stable-Baselines3": partial(peer, "stable_baselines3"),
    "tianshou": partial(peer, "tianshou"),
    "TorchRL": partial(peer, "torchrl"),
}

SPLITS: dict[str, Callable[[int], dict[str, float]]] = {
    "split": partial(ours, split=True),
    "split, 16 environments": partial(ours, num_envs=16, split=True),
    "split, Nature CNN": partial(ours, images=True, split=True),
}


def run(program: str, env_steps: int, threads: int) -> None:
    """Run one program in this process, and print its measurements as JSON."""
    started = time.perf_counter()
    import torch

    torch.set_num_threads(threads)
    function = {**OURS, **PEERS, **SPLITS}[program]
    result = function(env_steps)
    start_up = time.perf_counter() - started - result["seconds"]
    print(json.dumps({**result, "start_up": start_up}))


def in_a_process(program: str, env_steps: int, threads: int = 1) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.throughput", "--program", program]
    command += ["--env-steps", str(env_steps), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return last_line(command, env=environment)


# Environment steps per second --------------------------------------------------------------------


def speed(repeats: int, env_steps: int) -> None:
    threads = dict.fromkeys(OURS, 1)
    for program in PEERS:  # choose the faster of one and two threads
        tried = {n: in_a_process(program, env_steps // 4, n)["seconds"] for n in (1, 2)}
        threads[program] = min(tried, key=lambda n: tried[n])
    speeds: dict[str, list[float]] = {program: [] for program in threads}
    start_ups: dict[str, list[float]] = {program: [] for program in threads}
    for i in range(repeats):
        for program, values in speeds.items():
            result = in_a_process(program, env_steps, threads[program])
            assert abs(result["env_steps"] - env_steps) <= 16, result
            assert abs(result["updates"] - env_steps / EVERY) <= 2, result
            values.append(result["env_steps"] / result["seconds"])
            start_ups[program].append(result["start_up"])
        print(f"{i + 1}: " + ", ".join(f"{p} {v[-1]:,.0f}" for p, v in speeds.items()), flush=True)
    print("\nenvironment steps per second, medians (threads; seconds before the measured part):")
    for program, values in speeds.items():
        start_up = statistics.median(start_ups[program])
        details = f"({threads[program]}; {start_up:.1f})"
        print(f"  {program:<32}{statistics.median(values):>8,.0f}   {details}")
    print("\nratios of medians (minimum to maximum of the runs in turn)")
    pairs = [
        ("dqn_lightning", "plain loop"),
        ("dqn_lightning, 16 environments", "plain loop"),
        ("dqn_lightning, clamped", "Stable-Baselines3"),
        ("dqn_lightning, eager", "plain loop"),
        ("plain loop", "Stable-Baselines3"),
        ("dqn_lightning", "tianshou"),
        ("dqn_lightning", "TorchRL"),
    ]
    for fast, slow in pairs:
        ratios = [a / b for a, b in zip(speeds[fast], speeds[slow], strict=True)]
        ratio = statistics.median(speeds[fast]) / statistics.median(speeds[slow])
        print(f"  {fast} / {slow}: {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    draw(speeds)


def draw(speeds: dict[str, list[float]]) -> None:
    """Draw medians as bars and runs as dots into `throughput.png` in this directory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    programs = list(speeds)[::-1]
    colors = ["#0072B2" if program in OURS else "#999999" for program in programs]
    medians = [statistics.median(speeds[program]) for program in programs]
    axes.barh(programs, medians, color=colors)
    for i, program in enumerate(programs):
        axes.plot(speeds[program], [i] * len(speeds[program]), "k.", markersize=3)
        axes.text(max(speeds[program]), i, f"  {medians[i]:,.0f}", va="center")
    axes.set_xlabel("environment steps per second, CartPole-v1, one update of 128 per 10 steps")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, 1.1 * max(map(max, speeds.values())))
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)


# Time per part -----------------------------------------------------------------------------------


def show_split(env_steps: int) -> None:
    for program in SPLITS:
        cnn = program.endswith("CNN")
        result = in_a_process(program, env_steps // 50 if cnn else env_steps, 2 if cnn else 1)
        seconds, steps = result.pop("seconds"), int(result.pop("env_steps"))
        del result["updates"], result["start_up"]
        print(f"\n{program}: microseconds per environment step (timers included)")
        Spent(result).show(seconds, steps, rest="Lightning and loops")


def main() -> None:
    from benchmarks import parts, solve, update

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["speed", "update", "parts", "split", "solve"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--env-steps", type=int, default=50_000)
    parser.add_argument("--program", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        run(arguments.program, arguments.env_steps, arguments.threads)
        return
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed: pip install -e '.[bench]'")
    print(f"{platform.machine()}, Python {platform.python_version()}, " + ", ".join(versions))
    all_parts: dict[str, Callable[[], None]] = {
        "speed": partial(speed, arguments.repeats, arguments.env_steps),
        "update": partial(update.compare, arguments.repeats),
        "parts": partial(parts.compare, arguments.repeats),
        "split": partial(show_split, arguments.env_steps),
        "solve": solve.compare,
    }
    for name, part in all_parts.items():
        if arguments.part in (None, name):
            part()


if __name__ == "__main__":
    main()
