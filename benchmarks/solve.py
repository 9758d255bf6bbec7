"""Measure the time to solve CartPole-v1, a greedy mean return of 475 over 100 episodes.

    python -m benchmarks.throughput --part solve

Stable-Baselines3 uses the settings that its zoo tuned for CartPole-v1; our program uses
`configs/cartpole_fast.yaml`, tuned on seeds 100 to 104. Both are evaluated every 1 000 environment
steps; the time for that is not counted. Seeds 1 to 10, one thread each, in turn.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback

from benchmarks.processes import last_line

SOLVED, EVERY, LIMIT, SEEDS = 475.0, 1_000, 100_000, range(1, 11)


def greedy_mean(act: Callable[[Any], Any], episodes: int = 100) -> float:
    """Return the mean return of `episodes` greedy episodes, played in parallel."""
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

    envs = CartPoleVectorEnv(episodes)
    obs, _ = envs.reset(seed=10_000)
    returns, playing = np.zeros(episodes), np.ones(episodes, bool)
    while playing.any():
        obs, reward, terminated, truncated, _ = envs.step(act(obs))
        returns += playing * reward
        playing &= ~(terminated | truncated)
    return float(returns.mean())


class Watch:
    """A stopwatch that can be paused during evaluations."""

    def __init__(self) -> None:
        self._seconds, self._since = 0.0, time.perf_counter()

    def look(self, act: Callable[[Any], Any], env_steps: int) -> dict[str, float] | None:
        """Return seconds and environment steps if the task is solved now, else None."""
        self._seconds += time.perf_counter() - self._since
        mean = greedy_mean(act)
        self._since = time.perf_counter()
        if mean < SOLVED:
            return None
        return {"seconds": self._seconds, "env_steps": env_steps, "mean": mean}


class Look(Callback):
    """Callback that evaluates after every rollout and stops training when the task is solved."""

    solved: dict[str, float] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._watch = Watch()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        Look.solved = self._watch.look(pl_module.greedy_actions, pl_module.progress.env_steps)
        trainer.should_stop = trainer.should_stop or Look.solved is not None


def ours(seed: int, *flags: str) -> dict[str, float]:
    """Train with the command line, without its own evaluations."""
    from benchmarks.solve import Look  # the class that the command line imports
    from dqn_lightning.cli.main import main

    config = Path(__file__).parents[1] / "configs" / "cartpole_fast.yaml"
    arguments = [
        *("fit", "--config", str(config), f"--seed_everything={seed}"),
        "--trainer.callbacks+=benchmarks.solve.Look",
        f"--data.schedule.rollout_env_steps={EVERY}",
        "--data.evaluation.every_env_steps=null",
        f"--data.schedule.total_env_steps={LIMIT}",
        "--trainer.enable_checkpointing=false",
        *flags,
    ]
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        main(arguments)
    return Look.solved or {"seconds": float("inf"), "env_steps": LIMIT, "mean": 0.0}


def stable_baselines3(seed: int) -> dict[str, float]:
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    found: list[dict[str, float]] = []

    class Look(BaseCallback):
        watch: Watch

        def _on_training_start(self) -> None:
            self.watch = Watch()

        def _on_step(self) -> bool:
            if self.num_timesteps % EVERY == 0:
                solved = self.watch.look(
                    lambda obs: self.model.predict(obs, deterministic=True)[0], self.num_timesteps
                )
                if solved:
                    found.append(solved)
                    return False
            return True

    model = DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1_000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16 * 50_000 / LIMIT,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )
    model.learn(LIMIT, callback=Look())
    return found[0] if found else {"seconds": float("inf"), "env_steps": LIMIT, "mean": 0.0}


PROGRAMS: dict[str, Callable[[int], dict[str, float]]] = {
    "dqn_lightning": ours,
    "Stable-Baselines3": stable_baselines3,
}


def compare() -> None:
    """Print the times of both programs for each seed."""
    print("\nseconds (environment steps) until a greedy mean of 475 over 100 episodes, one thread:")
    times: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    for seed in SEEDS:
        line = f"  seed {seed:>2}"
        for program, values in times.items():
            command = [sys.executable, "-m", "benchmarks.solve", program, str(seed)]
            result = last_line(command)
            values.append(result["seconds"])
            line += f"   {program} {result['seconds']:6.1f} ({result['env_steps']:>6,.0f})"
        print(line, flush=True)
    medians = {program: statistics.median(values) for program, values in times.items()}
    for program, values in times.items():
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"  {program:<20} median {medians[program]:6.1f}   {spread}")
    ratio = medians["Stable-Baselines3"] / medians["dqn_lightning"]
    print(f"  ratio of medians {ratio:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("seed", type=int)
    arguments, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    if arguments.program == "dqn_lightning":
        print(json.dumps(ours(arguments.seed, *flags)))
    else:
        print(json.dumps(PROGRAMS[arguments.program](arguments.seed)))


if __name__ == "__main__":
    main()
