"""DQN for people who work with PyTorch Lightning."""

from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.dataset import ReplayDataset, Rollout
from dqn_lightning.errors import ConfigError, EnvironmentFailure, NonFiniteError
from dqn_lightning.module import DQNModule
from dqn_lightning.replay import ReplayBuffer
from dqn_lightning.schedules import Constant, Exponential, Linear

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "Constant",
    "DQNDataModule",
    "DQNModule",
    "EnvironmentFailure",
    "Exponential",
    "Linear",
    "NonFiniteError",
    "ReplayBuffer",
    "ReplayDataset",
    "Rollout",
]
