"""Save optimizer settings in a checkpoint, and apply changed settings when a run resumes."""

from collections.abc import Sequence
from typing import Any

import torch

from dqn_lightning.errors import ConfigError


def is_plain(value: Any) -> bool:
    """Return whether a value consists only of None, bool, int, float, str, dict, list and tuple."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def only_plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries whose values `torch.load(weights_only=True)` can load (see `is_plain`)."""
    return {name: value for name, value in values.items() if is_plain(value)}


def optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the settings of an optimizer (`defaults`) that are plain values, such as `lr`."""
    return only_plain(optimizer.defaults)


def describe_optimizer(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Return the class name and settings of the first optimizer; an empty dict if none is given."""
    if not optimizers:
        return {}
    settings = optimizer_settings(optimizers[0])
    return {"optimizer": type(optimizers[0]).__name__, "optimizer_settings": settings}


def check_same_optimizer(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check that the optimizer of a checkpoint has the same class as the optimizer of this run.

    Args:
        saved: Module state from the checkpoint, which contains the saved class name.
        optimizer: Optimizer of this run.

    Raises:
        ConfigError: If the classes differ.
    """
    before, now = saved.get("optimizer"), type(optimizer).__name__
    if before not in (None, now):
        raise ConfigError(f"model.optimizer: the run was made with {before}, not {now}")


def apply_changed_settings(
    optimizer: torch.optim.Optimizer, scheduler: Any, saved: dict[str, Any]
) -> None:
    """Apply optimizer settings that have changed since the checkpoint was saved.

    Restoring the optimizer overwrites its parameter groups, so a new learning rate given on the
    command line would be lost. If a schedule has already changed the learning rate, the current
    rate is multiplied by the ratio of the new to the saved initial rate.

    Args:
        optimizer: Optimizer after its state was restored.
        scheduler: Learning-rate scheduler of the optimizer, or None.
        saved: Optimizer settings from the checkpoint; empty if no checkpoint was loaded.
    """
    for name, value in optimizer_settings(optimizer).items():
        if saved.get(name, value) == value:
            continue
        for group in optimizer.param_groups:
            if name != "lr" or not saved["lr"]:
                group[name] = value
                continue
            group["lr"] *= value / saved["lr"]
            if "initial_lr" in group:
                group["initial_lr"] = value
        if name == "lr" and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [value for _ in scheduler.base_lrs]
