"""Build a small module and datamodule, train them, and compare weights."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger

from dqn_lightning import DQNDataModule, DQNModule
from dqn_lightning.callbacks import TargetSync
from dqn_lightning.networks import MLP
from tests.helpers.settings import make_datamodule

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Recorder(Logger):
    """A logger that keeps every value.

    Attributes:
        rows: Step, name and value of everything that was logged, in order.
    """

    name, version = "recorder", ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, str, float]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows += [(step, name, value) for name, value in metrics.items()]


def make(seed: int = 1, module: dict[str, Any] | None = None, **data: Any) -> tuple[Any, Any]:
    """Return a module and a datamodule for 300 steps of CartPole.

    Args:
        seed: Seed of all generators.
        module: Arguments of `DQNModule` that differ from the default of these tests.
        **data: Flat settings of the datamodule; see `make_datamodule`.
    """
    seed_everything(seed, verbose=False)
    settings = {
        "learning_starts_env_steps": 50,
        "batch_size": 16,
        "total_env_steps": 300,
        "epsilon": 0.3,
        "eval_every_env_steps": None,
        "eval_episodes": 2,
        **data,
    }
    datamodule = make_datamodule("CartPole-v1", **settings)
    network = partial(MLP, widths=(16,))
    options = {"network": network, **(module or {})}
    return DQNModule(datamodule.obs_shape, datamodule.num_actions, **options), datamodule


def train(
    module: DQNModule, datamodule: DQNDataModule, *callbacks: Callback, **trainer: Any
) -> Trainer:
    """Fit with the callbacks, and a TargetSync if there is none; return the trainer."""
    options = {**QUIET, "max_epochs": -1, "enable_checkpointing": False, **trainer}
    if not any(isinstance(callback, TargetSync) for callback in callbacks):
        callbacks = (*callbacks, TargetSync(every_n_grad_steps=10))
    new_trainer = Trainer(callbacks=list(callbacks), **options)
    new_trainer.fit(module, datamodule=datamodule)
    return new_trainer


def weights(module: DQNModule) -> list[torch.Tensor]:
    """Return copies of all parameters and buffers of both networks."""
    return [value.clone() for value in module.state_dict().values()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Return whether two lists of tensors are equal bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
