"""Deep Q-networks (DQN) and their extensions, implemented with PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqn_lightning.checkpointing.run_state import ResumeSettings
    from dqn_lightning.datamodule import DQNDataModule
    from dqn_lightning.envs import EnvSettings
    from dqn_lightning.errors import ConfigError, EnvironmentFailure, NonFiniteError
    from dqn_lightning.interaction.actor import ExplorationSettings
    from dqn_lightning.interaction.evaluation import EvaluationSettings
    from dqn_lightning.interaction.rollouts import ReplayDataset, Rollout, ScheduleSettings
    from dqn_lightning.module import DQNModule
    from dqn_lightning.replay import ReplayBuffer, ReplaySettings
    from dqn_lightning.schedules import Constant, Exponential, Linear

__version__ = "0.1.0"

_MODULES = {
    "ConfigError": "errors",
    "Constant": "schedules",
    "DQNDataModule": "datamodule",
    "DQNModule": "module",
    "EnvSettings": "envs",
    "EnvironmentFailure": "errors",
    "EvaluationSettings": "interaction.evaluation",
    "ExplorationSettings": "interaction.actor",
    "Exponential": "schedules",
    "Linear": "schedules",
    "NonFiniteError": "errors",
    "ReplayBuffer": "replay",
    "ReplayDataset": "interaction.rollouts",
    "ReplaySettings": "replay",
    "ResumeSettings": "checkpointing.run_state",
    "Rollout": "interaction.rollouts",
    "ScheduleSettings": "interaction.rollouts",
}
"""Module that defines each public name, relative to this package."""

__all__ = [
    "ConfigError",
    "Constant",
    "DQNDataModule",
    "DQNModule",
    "EnvSettings",
    "EnvironmentFailure",
    "EvaluationSettings",
    "ExplorationSettings",
    "Exponential",
    "Linear",
    "NonFiniteError",
    "ReplayBuffer",
    "ReplayDataset",
    "ReplaySettings",
    "ResumeSettings",
    "Rollout",
    "ScheduleSettings",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that importing the package itself is fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return all names for tab completion, including public names not imported yet."""
    return sorted({*globals(), *__all__})
