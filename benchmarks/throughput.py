"""Environment steps per second, beside Stable-Baselines3 at the same settings.

    python -m benchmarks.throughput

The settings are CleanRL's for CartPole-v1 (`dqn.py`): one environment, an MLP 4-120-84-2, batches
of 128, one update every 10 steps, a replay of 10 000, learning from step 1 000, Adam at 2.5e-4,
the target copied every 500 steps; on both sides Huber's loss and gradients clamped to norm 10, as
Stable-Baselines3 always does. Epsilon is what CleanRL's ends at, 0.05, from the start, so the
network acts almost always. Both programs run in turn, each time in a process of its own on one
thread, and are timed after learning has started. Environment steps are counted at the environment
itself; steps in which an environment only resets do not count.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.spent import Spent

WARM_UP = 2_000
BATCH, EVERY, LEARNING_STARTS = 128, 10, 1_000


class Counter:
    """Real steps of an environment, counted where they happen."""

    steps = 0


def counted(env: Any) -> Any:
    """Make an environment count its steps."""
    step = env.step

    def counting(action: Any) -> Any:
        Counter.steps += 1
        return step(action)

    env.step = counting
    return env


def ours(env_steps: int, split: bool = False) -> dict[str, float]:
    """Our program, eager, with the loggers and callbacks that the command line gives it."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything

    from dqn_lightning import DQNDataModule, DQNModule
    from dqn_lightning.callbacks import EpisodeLog, GradientClamp, TargetSync, Timing
    from dqn_lightning.csv_log import CSVLog
    from dqn_lightning.networks import MLP

    seed_everything(1, verbose=False)
    data = DQNDataModule(
        "CartPole-v1",
        wrappers=[counted],
        capacity=10_000,
        batch_size=BATCH,
        learning_starts_env_steps=LEARNING_STARTS,
        train_every_env_steps=EVERY,
        total_env_steps=WARM_UP + env_steps,
        epsilon=0.05,
        eval_every_env_steps=None,
    )
    module = DQNModule(
        data.obs_shape,
        data.num_actions,
        network=partial(MLP, widths=(120, 84)),
        optimizer=partial(torch.optim.Adam, lr=2.5e-4, fused=True),
    )
    marks: list[tuple[float, int, int]] = []
    spent = Spent()

    class Watch(Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            if pl_module.clock.env_steps != WARM_UP:
                return
            marks.append((time.perf_counter(), Counter.steps, trainer.global_step))
            if split:
                collector = trainer.datamodule.dataset.collector
                spent.measure(collector.envs, "step", "environment")
                spent.measure(pl_module, "_policy", "acting")
                spent.measure(collector.replay, "write", "replay")
                spent.measure(collector.replay, "draw", "replay")
                spent.measure(pl_module._engine, "update", "update")

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            marks.append((time.perf_counter(), Counter.steps, trainer.global_step))

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            logger=CSVLog(Path(folder)),
            log_every_n_steps=100,
            callbacks=[
                Watch(),
                TargetSync(every_n_env_steps=500),
                GradientClamp(norm=10.0),
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


def stable_baselines3(env_steps: int) -> dict[str, float]:
    """Stable-Baselines3's DQN."""
    import gymnasium as gym
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    marks: list[tuple[float, int, int]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == WARM_UP + 1:
                marks.append((time.perf_counter(), Counter.steps, self.model._n_updates))
            return True

    model = DQN(
        "MlpPolicy",
        counted(gym.make("CartPole-v1")),
        learning_rate=2.5e-4,
        buffer_size=10_000,
        learning_starts=LEARNING_STARTS,
        batch_size=BATCH,
        train_freq=EVERY,
        gradient_steps=1,
        target_update_interval=500,
        exploration_initial_eps=0.05,
        exploration_final_eps=0.05,
        policy_kwargs={"net_arch": [120, 84]},
        seed=1,
        device="cpu",
    )
    model.learn(WARM_UP + env_steps, callback=Watch())
    marks.append((time.perf_counter(), Counter.steps, model._n_updates))
    (start, steps_then, updates_then), (end, steps, updates) = marks
    return {
        "seconds": end - start,
        "env_steps": steps - steps_then + 1,  # the mark stands inside its step
        "updates": updates - updates_then,
    }


def in_a_process(program: str, env_steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.throughput", "--program", program]
    command += ["--env-steps", str(env_steps)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def run(program: str, env_steps: int) -> None:
    """One program, in this process; prints its figures as JSON."""
    import torch

    torch.set_num_threads(1)
    if program == "stable-baselines3":
        print(json.dumps(stable_baselines3(env_steps)))
    else:
        print(json.dumps(ours(env_steps, split=program == "split")))


def compare(repeats: int, env_steps: int) -> None:
    speeds: dict[str, list[float]] = {"dqn_lightning": [], "stable-baselines3": []}
    for i in range(repeats):
        updates = set()
        for program, values in speeds.items():
            result = in_a_process(program, env_steps)
            values.append(result["env_steps"] / result["seconds"])
            updates.add(result["updates"])
            assert result["env_steps"] == env_steps, result
        assert updates == {env_steps / EVERY}, f"updates differ: {updates}"
        print(f"{i + 1}: " + ", ".join(f"{p} {v[-1]:,.0f}" for p, v in speeds.items()), flush=True)
    medians = {program: statistics.median(values) for program, values in speeds.items()}
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    print("\nenvironment steps per second, medians, one thread:")
    for program, median in medians.items():
        print(f"  {program:<20}{median:>8,.0f}")
    print(
        f"  ratio of medians {medians['dqn_lightning'] / medians['stable-baselines3']:.2f}, "
        f"of pairs {min(ratios):.2f} to {max(ratios):.2f}"
    )


def show_split(env_steps: int) -> None:
    result = in_a_process("split", env_steps)
    seconds, steps = result.pop("seconds"), int(result.pop("env_steps"))
    result.pop("updates")
    print("\nwhere our time goes, microseconds per environment step (timers included):")
    Spent(result).show(seconds, steps, rest="Lightning and loops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--env-steps", type=int, default=50_000)
    parser.add_argument("--program", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        run(arguments.program, arguments.env_steps)
        return
    packages = ("torch", "lightning", "gymnasium", "stable-baselines3")
    print(
        f"{platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
    compare(arguments.repeats, arguments.env_steps)
    show_split(arguments.env_steps)


if __name__ == "__main__":
    main()
