"""Factory for the optimizer and its learning-rate schedule, in the form that Lightning expects."""

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
    """Return the optimizer, combined with its learning-rate schedule if there is one.

    With a schedule, the result is a dictionary as expected from `configure_optimizers`.

    Raises:
        ConfigError: If the optimizer rejects its settings, or the schedule needs a metric.
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
