"""Measure updates and environment steps per second by number of ranks, at equal work per rank.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --accelerator gpu --ranks 1 2 4 8

Two tasks: CartPole-v1 with a small network, at CleanRL's settings (`throughput.py`), and stacks of
four 84 x 84 images with the network of Mnih et al. 2015, batches of 32 and an update every four
environment steps. Every rank does the full work of a single one, so ideally updates per second stay
constant and environment steps per second grow with the number of ranks. Each run is a separate
`torchrun`, 1 and 2 ranks in turn, one thread per rank.

Collectives are timed twice: within the run, including the wait for the slowest rank, and alone. The
numbers for eight GPUs are computed, not measured, and printed separately with their assumptions.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from functools import partial
from importlib.metadata import version
from typing import Any

from benchmarks.processes import last_line
from benchmarks.spent import Spent

TASKS = {"small network": 2_000, "Nature CNN": 60}  # number of timed updates
WARM_UP = {"small network": 100, "Nature CNN": 10}


def make(task: str, num_ranks: int) -> tuple[Any, Any]:
    """Return the module and the datamodule of a task."""
    import gymnasium as gym
    import numpy as np
    import torch
    from gymnasium import spaces

    from dqn_lightning import (
        DQNDataModule,
        DQNModule,
        EvaluationSettings,
        ExplorationSettings,
        ReplaySettings,
        ScheduleSettings,
    )
    from dqn_lightning.networks import CNN, MLP

    class Noise(gym.Env[Any, Any]):  # observations that cost nothing
        observation_space = spaces.Box(0, 255, (1, 84, 84), np.uint8)
        action_space = spaces.Discrete(6)

        def __init__(self) -> None:
            self.images = np.random.default_rng(0).integers(0, 256, (64, 1, 84, 84), np.uint8)
            self.steps = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.images[0], {}

        def step(self, action: Any) -> Any:
            self.steps += 1
            return self.images[self.steps % 64], 0.0, self.steps % 500 == 0, False, {}

    gym.register("benchmark/Noise-v0", Noise)
    small = task == "small network"
    every = 10 if small else 4
    data = DQNDataModule(
        "CartPole-v1" if small else "benchmark/Noise-v0",
        replay=ReplaySettings(
            capacity=10_000,
            batch_size=128 if small else 32,
            frame_stack=1 if small else 4,
        ),
        schedule=ScheduleSettings(
            learning_starts_env_steps=1_000,
            train_every_env_steps=every,
            rollout_env_steps=1_000 if small else 100,
            total_env_steps=1_000 + num_ranks * every * (WARM_UP[task] + TASKS[task]),
        ),
        exploration=ExplorationSettings(epsilon=0.05),
        evaluation=EvaluationSettings(every_env_steps=None),
    )
    module = DQNModule(
        data.obs_shape,
        data.num_actions,
        network=partial(MLP, widths=(120, 84)) if small else CNN,
        optimizer=partial(torch.optim.Adam, lr=2.5e-4, fused=True),
    )
    return module, data


def measure(task: str, accelerator: str) -> dict[str, Any]:
    """Run the measurement on one rank, which `torchrun` started."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything

    from dqn_lightning import distributed
    from dqn_lightning.callbacks import GradientClamp, TargetSync

    torch.set_num_threads(1)
    seed_everything(1, verbose=False)
    num_ranks = int(os.environ["WORLD_SIZE"])
    marks: list[tuple[float, int, int]] = []
    spent, alone, mean = Spent(), {}, distributed.all_reduce_mean

    def mark(trainer: Any, module: Any) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        env_steps = trainer.datamodule.dataset.collector.progress.env_steps
        marks.append((time.perf_counter(), env_steps, trainer.global_step))

    class Watch(Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            if not marks and trainer.global_step >= WARM_UP[task]:
                mark(trainer, pl_module)
                spent.measure(distributed, "all_reduce_mean", "gradients")
                spent.measure(distributed, "all_reduce_sum", "agreeing to go on")

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            mark(trainer, pl_module)
            gradients = [p.detach().clone() for p in pl_module.online.parameters()]
            distributed.all_gather(None)
            started = time.perf_counter()
            for _ in range(100):
                mean(gradients)
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            alone["seconds"] = (time.perf_counter() - started) / 100
            alone["bytes"] = sum(g.numel() * g.element_size() for g in gradients)

    trainer = Trainer(
        accelerator=accelerator,
        devices=num_ranks,
        strategy="ddp" if num_ranks > 1 else "auto",
        max_epochs=-1,
        logger=False,
        callbacks=[Watch(), TargetSync(every_n_grad_steps=50), GradientClamp(norm=10.0)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module, data = make(task, num_ranks)
    trainer.fit(module, datamodule=data)
    (start, steps_then, updates_then), (end, steps, updates) = marks
    return {
        "seconds": end - start,
        "env_steps": steps - steps_then,
        "updates": updates - updates_then,
        "spent": spent,
        "alone": alone,
    }


def in_ranks(task: str, num_ranks: int, accelerator: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(num_ranks), "-m", "benchmarks.scaling"]
    command += ["--task", task, "--accelerator", accelerator]
    return last_line(command)


def show(task: str, runs: dict[int, list[dict[str, Any]]]) -> None:
    print(f"\n{task}: medians of {len(next(iter(runs.values())))} runs")
    print("  ranks   updates/s   env steps/s   ms/update   collectives, µs/update (alone)   share")
    for num_ranks, results in runs.items():
        seconds = statistics.median(r["seconds"] / r["updates"] for r in results)
        per_update = statistics.median(r["env_steps"] / r["updates"] for r in results)
        inside = statistics.median(sum(r["spent"].values()) / r["updates"] for r in results)
        alone = statistics.median(r["alone"]["seconds"] for r in results)
        print(
            f"  {num_ranks:>5}{1 / seconds:>12,.0f}{per_update / seconds:>14,.0f}"
            f"{1e3 * seconds:>12.2f}{1e6 * inside:>20,.0f} ({1e6 * alone:>6,.0f})"
            f"{inside / seconds:>16.0%}"
        )


def show_eight_gpus(one: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the computed speed of eight GPUs of one machine."""
    on_gpu = args.accelerator == "gpu"
    seconds = statistics.median(r["seconds"] / r["updates"] for r in one)
    update_s = seconds if on_gpu else args.gpu_update_ms / 1e3
    size, ranks = one[0]["alone"]["bytes"], 8
    traffic = 2 * (ranks - 1) / ranks * size  # of a ring all-reduce, per direction and rank
    reduce_s = args.latency_us / 1e6 + traffic / (args.bandwidth_gb_s * 1e9)
    print(f"\ncomputed, not measured: the Nature CNN on {ranks} GPUs of one machine")
    source = "as measured above" if on_gpu else "assumed, with its four environment steps"
    print(f"  an update on one GPU            {1e3 * update_s:8.2f} ms  {source}")
    print(f"  all-reduce of {size / 1e6:.1f} MB, assumed {1e3 * reduce_s:8.2f} ms  ", end="")
    print(f"{args.latency_us:.0f} µs + {traffic / 1e6:.1f} MB at {args.bandwidth_gb_s:.0f} GB/s")
    rate, times = 1 / (update_s + reduce_s), ranks * update_s / (update_s + reduce_s)
    print(
        f"  {rate:,.0f} updates/s of {32 * ranks} rows, {4 * ranks * rate:,.0f} env steps/s, ",
        end="",
    )
    print(f"{times:.1f} times one GPU's")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--gpu-update-ms", type=float, default=2.0)
    parser.add_argument("--latency-us", type=float, default=50.0)
    parser.add_argument("--bandwidth-gb-s", type=float, default=150.0)
    args = parser.parse_args()
    if "RANK" in os.environ and args.task:
        result = measure(args.task, args.accelerator)
        if os.environ["RANK"] == "0":
            print(json.dumps(result))
        return
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {names}")
    tasks = [args.task] if args.task else list(TASKS)
    for task in tasks:
        runs: dict[int, list[dict[str, Any]]] = {number: [] for number in args.ranks}
        for _ in range(args.runs):
            for number, results in runs.items():
                results.append(in_ranks(task, number, args.accelerator))
        show(task, runs)
        if task == "Nature CNN" and 1 in runs:
            show_eight_gpus(runs[1], args)


if __name__ == "__main__":
    main()
