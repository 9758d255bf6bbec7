"""Factory for the optimizer and its learning-rate scheduler, in the form Lightning expects."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dqn_lightning.errors import ConfigError


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    make: OptimizerCallable,
    make_lr_scheduler: LRSchedulerCallable | None,
) -> Any:
    """Create the optimizer and, optionally, its learning-rate scheduler.

    Args:
        parameters: Parameters to optimize.
        make: Function that returns an optimizer for the parameters.
        make_lr_scheduler: Function that returns a scheduler for the optimizer; None for none.

    Returns:
        The optimizer alone, or a dictionary with optimizer and scheduler, in the form that
        Lightning expects from `configure_optimizers`.

    Raises:
        ConfigError: If the optimizer rejects its settings, or the scheduler needs a metric.
    """
    try:
        optimizer: torch.optim.Optimizer = make(parameters)
    except ValueError as error:
        raise ConfigError(f"model.optimizer: {error}") from error
    if make_lr_scheduler is None:
        return optimizer
    scheduler = make_lr_scheduler(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError(
            "model.lr_scheduler: ReduceLROnPlateau needs a metric, but schedules are stepped after "
            "every update; use one that counts steps"
        )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}
