"""Replay in time rows: storage, samplers, and the buffer that makes batches of them."""

from dqn_lightning.replay.augmentations import Augmentation, RandomMirror, RandomShift
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
    "Augmentation",
    "Drawn",
    "Pool",
    "PrefixSums",
    "Priorities",
    "Prioritized",
    "PrioritySampler",
    "RandomMirror",
    "RandomShift",
    "ReplayBuffer",
    "Sampler",
    "Storage",
    "SumTree",
    "Uniform",
]
