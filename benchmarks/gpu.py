"""Updates per second on a GPU, by engine.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu   # to check the script without a GPU

Measures an MLP 4-120-84-2 and the Nature CNN (Mnih et al. 2015) with batches of 32, 128 and 512,
Huber loss and fused Adam, in three ways: eager, with the objective compiled by `torch.compile`
(whose compilation time is printed as well), and as CUDA graphs. For comparison, it prints two lower
bounds: the time to move the bytes of parameters, gradients and optimizer state, and the time to
execute the floating-point operations of the layers.
"""

import argparse
import copy
import statistics
import sys
import time
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dqn_lightning.engines import CUDAGraph, Eager, Recorded
from dqn_lightning.losses import DQN
from dqn_lightning.networks import CNN, MLP, QNetwork, ValueHead
from dqn_lightning.types import Batch

NETWORKS: dict[str, Any] = {
    "MLP 4-120-84-2": (partial(MLP, widths=(120, 84)), (4,), torch.float32),
    "Nature CNN": (CNN, (4, 84, 84), torch.uint8),
}
SIZES = (32, 128, 512)
BYTES_PER_S, OPERATIONS_PER_S = 3.35e12, 6.7e13
"""Memory bandwidth and float32 throughput (no tensor cores) of an H100 SXM, from its data sheet."""


class Compiled(Eager):
    """The eager engine with a compiled objective."""

    name = "compiled"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.objective = torch.compile(self.objective)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def time_update(engine: Any, batch: Batch, device: torch.device, repeats: int) -> float:
    """Return the median time of an update in µs."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(20):
            engine.update(batch)
        synchronize(device)
        times.append(1e6 * (time.perf_counter() - started) / 20)
    return statistics.median(times)


def lower_bounds(online: nn.Module, target: nn.Module, batch: Batch) -> tuple[float, float]:
    """Return the lower bounds of an update's time in µs: memory traffic, and arithmetic."""
    parameters = sum(p.numel() * p.element_size() for p in online.parameters())
    # Reads: both networks in forward and backward pass, gradient, two moments. Writes: the online
    # network, gradient, two moments.
    moved = 12 * parameters + 2 * batch.obs.numel() * batch.obs.element_size()
    with FlopCounterMode(display=False) as counter:
        DQN()(online, target, batch).loss.mean().backward()
    online.zero_grad()
    return 1e6 * moved / BYTES_PER_S, 1e6 * counter.get_total_flops() / OPERATIONS_PER_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    fast: type[Eager] = CUDAGraph if device.type == "cuda" else Recorded
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU found; use --device cpu to check the script")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}; microseconds per update (median):")
    print(f"{'':<24}{'eager':>9}{'compiled':>10}{fast.name:>11}{'bytes':>8}{'operations':>12}")
    for network, (torso, shape, dtype) in NETWORKS.items():
        for size in SIZES:
            obs, next_obs = (torch.rand(2, size, *shape, device=device) * 255).to(dtype)
            action = torch.randint(2, (size,), device=device)
            ones = torch.ones(size, device=device)
            batch = Batch(obs, action, ones, ones * 0.99, next_obs, ones, action)
            line, compiling = f"{f'{network}, {size}':<24}", 0.0
            for kind, width in ((Eager, 9), (Compiled, 10), (fast, 11)):
                torch.manual_seed(0)
                online = QNetwork(shape, 2, torso, ValueHead).to(device)
                target = copy.deepcopy(online).requires_grad_(False)
                adam = torch.optim.Adam(online.parameters(), lr=1e-6, fused=True)
                engine = kind(online, target, DQN(), adam, [])
                started = time.perf_counter()
                for _ in range(5):
                    engine.update(batch)
                synchronize(device)
                if kind is Compiled:
                    compiling = time.perf_counter() - started
                line += f"{time_update(engine, batch, device, arguments.repeats):>{width},.0f}"
            moving, computing = lower_bounds(online, target, batch)
            line += f"{moving:>8,.1f}{computing:>12,.1f}"
            print(f"{line}   ({compiling:.0f} s to compile)", flush=True)


if __name__ == "__main__":
    main()
