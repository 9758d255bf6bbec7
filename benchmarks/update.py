"""Time per update of every objective and head, by engine and relative to plain DQN.

python -m benchmarks.throughput --part update
"""

import copy
import os
import statistics
import time
from functools import partial
from typing import Any

import torch

from benchmarks.ratios import of_pairs
from dqn_lightning.engines import Eager, Recorded
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen
from dqn_lightning.networks import CNN, MLP, QNetwork
from dqn_lightning.types import Batch

NETWORKS: dict[str, tuple[Any, tuple[int, ...], torch.dtype, int]] = {
    "MLP 4-120-84-2": (partial(MLP, widths=(120, 84)), (4,), torch.float32, 100),
    "Nature CNN": (CNN, (4, 84, 84), torch.uint8, 2),
}
VARIANTS: dict[str, tuple[Any, dict[str, bool]]] = {
    "DQN": (DQN(), {}),
    "squared error": (DQN("squared"), {}),
    "double": (DQN(double=True), {}),
    "rescaled": (DQN(rescaled=True), {}),
    "Munchausen": (DQN(munchausen=Munchausen()), {}),
    "dueling": (DQN(), {"dueling": True}),
    "noisy": (DQN(), {"noisy": True}),
    "C51": (C51(), {}),
    "QR-DQN, 32 quantiles": (QRDQN(num_quantiles=32), {}),
    "IQN": (IQN(), {}),
    "Rainbow": (C51(double=True), {"dueling": True, "noisy": True}),
}


class Subject:
    """An engine with the network, objective and batch of one variant."""

    def __init__(self, kind: Any, network: str, variant: str, batch_size: int) -> None:
        torso, shape, dtype, self.num_updates = NETWORKS[network]
        objective, switches = VARIANTS[variant]
        torch.manual_seed(0)
        head = partial(objective.head, dueling=switches.get("dueling", False))
        self.online = QNetwork(
            shape, 2, torso, head, noisy_sigma=0.5 if "noisy" in switches else None
        )
        target = copy.deepcopy(self.online).requires_grad_(False)
        adam = torch.optim.Adam(self.online.parameters(), lr=1e-6, fused=True)
        self.engine = kind(self.online, target, objective, adam, [])
        obs, next_obs = (torch.rand(2, batch_size, *shape) * 255).to(dtype)
        action, ones = torch.randint(2, (batch_size,)), torch.ones(batch_size)
        self.batch = Batch(obs, action, ones, ones * 0.99, next_obs, ones, action)
        self.rng = torch.Generator()

    def time_update(self) -> float:
        """Return the mean time of an update in µs, including the sampling of noise."""
        started = time.perf_counter()
        for _ in range(self.num_updates):
            noise = self.online.sample_update_noise(len(self.batch.row), self.rng)
            self.engine.update(self.batch, noise)
        return 1e6 * (time.perf_counter() - started) / self.num_updates


def compare(repeats: int) -> None:
    """Print the times of all variants, measured in alternating runs."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # as in training
    torch.set_num_threads(1)
    print("\nmicroseconds per update, medians of alternating runs, one thread:")
    for network in NETWORKS:
        for size in (32, 128):
            print(f"\n{f'{network}, batch {size}':<32}{'eager':>10}{'/ DQN':>8}", end="")
            print(f"{'recorded':>10}{'/ DQN':>8}   eager / recorded (range)")
            subjects = {
                (variant, kind): Subject(kind, network, variant, size)
                for variant in VARIANTS
                for kind in (Eager, Recorded)
            }
            times: dict[Any, list[float]] = {key: [] for key in subjects}
            for _ in range(repeats + 1):
                for key, subject in subjects.items():
                    times[key].append(subject.time_update())
            medians = {key: statistics.median(values[1:]) for key, values in times.items()}
            for variant in VARIANTS:
                line = f"{variant:<32}"
                for kind in (Eager, Recorded):
                    ratio = medians[variant, kind] / medians["DQN", kind]
                    line += f"{medians[variant, kind]:>10,.0f}{ratio:>8.2f}"
                eager, recorded = (times[variant, kind][1:] for kind in (Eager, Recorded))
                print(f"{line}   {of_pairs(eager, recorded)}", flush=True)
