"""DQN for people who work with PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = ("errors", "schedules", "replay", "dataset", "datamodule", "module")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: PyTorch and Lightning take seconds."""
    if name in __all__:
        for home in _HOMES:  # the quickest to import first
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Every name, imported or not, for completion."""
    return sorted({*globals(), *__all__})
