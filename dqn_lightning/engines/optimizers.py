"""Factory for the optimizer and its learning-rate scheduler, in the form Lightning expects."""

import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dqn_lightning.errors import ConfigError

_UNSUPPORTED: dict[type[torch.optim.Optimizer], str] = {
    torch.optim.SparseAdam: "sparse gradients, but the gradients of networks here are dense",
    torch.optim.LBFGS: "to compute the loss several times per step, which updates here do not do",
}
"""Optimizers that cannot be used, and what they need."""


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
        ConfigError: If the optimizer or the scheduler rejects its settings or cannot be used here,
            or the scheduler needs a metric.
    """
    optimizer: torch.optim.Optimizer = _call("model.optimizer", make, parameters)
    _check_supported(optimizer)
    if make_lr_scheduler is None:
        return optimizer
    scheduler = _call("model.lr_scheduler", make_lr_scheduler, optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError(
            "model.lr_scheduler: ReduceLROnPlateau needs a metric, but schedules are stepped after "
            "every update; use one that counts steps"
        )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}


def _check_supported(optimizer: torch.optim.Optimizer) -> None:
    for kind, needs in _UNSUPPORTED.items():
        if isinstance(optimizer, kind):
            raise ConfigError(f"model.optimizer: {kind.__name__} needs {needs}; use Adam")
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise ConfigError(
                "model.optimizer: differentiable must be false: steps have no gradient"
            )
        if group.get("capturable") and any(p.device.type == "cpu" for p in group["params"]):
            raise ConfigError("model.optimizer: capturable must be false on a CPU")


def _call(flag: str, make: Callable[[Any], Any], argument: Any) -> Any:
    """Call a factory; report errors about its settings as errors of the given flag.

    PyTorch's classes raise errors of several types if their settings are invalid. Other types than
    `ValueError` raised by a user's class are propagated unchanged.
    """
    try:
        return make(argument)
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        is_raised_by_torch = frame.f_globals["__name__"].startswith("torch.")
        if not isinstance(error, ValueError) and not is_raised_by_torch:
            raise
        raise ConfigError(f"{flag}: {type(error).__name__}: {error}") from error
