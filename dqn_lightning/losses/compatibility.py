"""Checks that an objective is compatible with the network and with n-step returns."""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from dqn_lightning.errors import ConfigError
from dqn_lightning.networks import QNetwork, ValueHead
from dqn_lightning.networks.q_network import HeadFactory


def accepts(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Return whether a function's signature accepts the given arguments.

    >>> accepts(lambda a, b: None, 1, 2), accepts(lambda a, b: None, 1, 2, c=3)
    (True, False)
    """
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def choose_head(head: HeadFactory | None, objective: Any, dueling: bool) -> HeadFactory:
    """Return the head factory to use: the given one or the objective's default.

    Args:
        head: Factory for the head; None for the objective's default.
        objective: Objective, whose attribute `head` is the default factory. An objective without
            this attribute uses `ValueHead`.
        dueling: Whether to build the head with separate streams for state value and advantages.

    Raises:
        ConfigError: If `dueling` is true, but the factory has no argument `dueling`.
    """
    make_head: Any = head or getattr(objective, "head", ValueHead)
    if not dueling:
        return cast(HeadFactory, make_head)
    if not accepts(make_head, 1, 2, dueling=True):
        raise ConfigError(f"model.dueling: the head {make_head} has no argument `dueling`")
    return partial(make_head, dueling=True)


def check_objective(objective: Any, network: QNetwork, obs: Tensor) -> None:
    """Check that the objective accepts the network's random inputs and the head's output.

    Args:
        objective: Objective to check.
        network: Network that the objective will be applied to; it is not modified.
        obs: Observations [B, …] for one forward pass; their values do not matter.

    Raises:
        ConfigError: If the objective does not accept an argument `noise`, but the network is noisy
            or samples taus (quantile probabilities). Also raised if the head's output is not of the
            type that the objective expects.
    """
    name = type(objective).__name__
    if network.needs_update_noise and not accepts(objective, 1, 2, 3, 4):
        raise ConfigError(
            f"model.objective: {name} must accept a fourth argument of type UpdateNoise, because "
            "the network is noisy or samples taus"
        )
    expected = getattr(objective, "output", None)
    if expected is None:
        return
    with torch.no_grad():  # on a copy: layers such as batch norm change their buffers
        output = copy.deepcopy(network).eval()(obs)
    if not isinstance(output, expected):
        raise ConfigError(
            f"model.head: {type(network.head).__name__} returns {type(output).__name__}, but the "
            f"objective {name} needs {expected.__name__}; omit model.head to use its default head"
        )


def check_n_step(objective: Any, n_step: int) -> None:
    """Check that the objective supports n-step returns with n = `n_step`.

    Raises:
        ConfigError: If `n_step` exceeds the objective's `max_n_step`.
    """
    limit = getattr(objective, "max_n_step", None)
    if limit is not None and n_step > limit:
        raise ConfigError(
            f"data.replay.n_step: the objective is defined for returns of at most {limit} steps, "
            f"got {n_step} (munchausen needs 1)"
        )
