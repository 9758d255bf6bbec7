"""Experience replay: storage, samplers, augmentations, and the buffer that combines them."""

from dqn_lightning.replay.augmentations import Augmentation, RandomMirror, RandomShift
from dqn_lightning.replay.buffer import ReplayBuffer
from dqn_lightning.replay.priorities import PrefixSums, Priorities, SumTree
from dqn_lightning.replay.samplers import (
    Prioritized,
    PrioritySampler,
    SampledRows,
    Sampler,
    SamplingPool,
    Uniform,
)
from dqn_lightning.replay.settings import ReplaySettings
from dqn_lightning.replay.storage import Storage

__all__ = [
    "Augmentation",
    "PrefixSums",
    "Priorities",
    "Prioritized",
    "PrioritySampler",
    "RandomMirror",
    "RandomShift",
    "ReplayBuffer",
    "ReplaySettings",
    "SampledRows",
    "Sampler",
    "SamplingPool",
    "Storage",
    "SumTree",
    "Uniform",
]
