"""Engines: how an update is executed. One interface, the same numbers."""

from dqn_lightning.engines.eager import Eager, GradTransform

__all__ = ["Eager", "GradTransform"]
