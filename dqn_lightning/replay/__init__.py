"""Replay in time rows: storage, samplers, and the buffer that makes batches of them."""

from dqn_lightning.replay.buffer import ReplayBuffer
from dqn_lightning.replay.priorities import PrefixSums, Priorities, SumTree
from dqn_lightning.replay.samplers import (
    Drawn,
    Pool,
    Prioritized,
    PrioritySampler,
    Sampler,
    Uniform,
)
from dqn_lightning.replay.storage import Storage

__all__ = [
    "Drawn",
    "Pool",
    "PrefixSums",
    "Priorities",
    "Prioritized",
    "PrioritySampler",
    "ReplayBuffer",
    "Sampler",
    "Storage",
    "SumTree",
    "Uniform",
]
