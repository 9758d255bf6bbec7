"""Engines: interchangeable implementations of an update, from eager execution to CUDA graphs."""

from dqn_lightning.engines.choice import Engine, EngineName, WithFallback, check_device, make_engine
from dqn_lightning.engines.cudagraph import CUDAGraph
from dqn_lightning.engines.eager import Eager, GradTransform
from dqn_lightning.engines.flat_gradient import accepts_flat_gradient
from dqn_lightning.engines.purity import declare_pure, is_declared_pure
from dqn_lightning.engines.rebuilding import RebuildingEngine
from dqn_lightning.engines.recorded import Recorded

__all__ = [
    "CUDAGraph",
    "Eager",
    "Engine",
    "EngineName",
    "GradTransform",
    "RebuildingEngine",
    "Recorded",
    "WithFallback",
    "accepts_flat_gradient",
    "check_device",
    "declare_pure",
    "is_declared_pure",
    "make_engine",
]
