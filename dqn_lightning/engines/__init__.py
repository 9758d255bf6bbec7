"""Engines: how an update is executed. One interface, the same numbers."""

from dqn_lightning.engines.choice import Automatic, Engine, EngineName, check_device, make_engine
from dqn_lightning.engines.cudagraph import CUDAGraph
from dqn_lightning.engines.eager import Eager, GradTransform, joint
from dqn_lightning.engines.traced import Traced

__all__ = [
    "Automatic",
    "CUDAGraph",
    "Eager",
    "Engine",
    "EngineName",
    "GradTransform",
    "Traced",
    "check_device",
    "joint",
    "make_engine",
]
