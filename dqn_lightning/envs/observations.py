"""Observations and actions in the form that the replay stores and networks expect."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import TransformAction, TransformObservation

from dqn_lightning.errors import ConfigError

_Transform: TypeAlias = Callable[[Any], Any]

_CHANNELS = (1, 3, 4)


def adapt(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Wrap a vector environment so that its observations are arrays and its actions start at 0.

    Pictures (uint8, [H, W, C] or [H, W]) become channel-first, discrete observations vectors of
    class numbers from 0 on, scalars vectors of one element; anything else stays as it is.

    Raises:
        ConfigError: If the actions are not discrete, or the observations no array.
    """
    envs = _adapt_actions(envs)
    space, transform = _adapted(envs.single_observation_space)
    if transform is None:
        return envs
    return TransformObservation(envs, transform, single_observation_space=space)


def obs_classes(space: spaces.Space[Any]) -> tuple[int, ...] | None:
    """Number of classes of each element of an adapted discrete space; None for any other."""
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec)
    return None


def _adapt_actions(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    space = envs.single_action_space
    if not isinstance(space, spaces.Discrete):
        raise ConfigError(
            f"data.env_id: a DQN needs discrete actions, this environment's are {space}; "
            "a wrapper (data.wrappers) can make a choice of actions of them"
        )
    if space.start == 0:
        return envs
    start = int(space.start)
    return TransformAction(
        envs, lambda action: action + start, single_action_space=spaces.Discrete(int(space.n))
    )


def _adapted(space: spaces.Space[Any]) -> tuple[spaces.Space[Any], _Transform | None]:
    """The adapted space, and the function of the batched observations that leads there."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return spaces.MultiDiscrete([int(space.n)]), lambda obs: (obs - start)[:, None]
    if isinstance(space, spaces.MultiDiscrete):
        if space.nvec.ndim == 1 and not space.start.any():
            return space, None
        offset = space.start
        return (
            spaces.MultiDiscrete(space.nvec.flatten()),
            lambda obs: (obs - offset).reshape(len(obs), -1),
        )
    if isinstance(space, spaces.MultiBinary):
        return space, None
    if isinstance(space, spaces.Box):
        return _adapted_box(space)
    wrapper = (
        "gymnasium.wrappers.FlattenObservation"
        if isinstance(space, (spaces.Dict, spaces.Tuple))
        else "a wrapper of yours that makes an array of them"
    )
    raise ConfigError(
        f"data.env_id: observations must be one array, this environment's are {space}; "
        f"add --data.wrappers+={wrapper}"
    )


def _adapted_box(space: spaces.Box) -> tuple[spaces.Space[Any], _Transform | None]:
    if space.shape == ():
        return _box(space, (1,)), lambda obs: np.reshape(obs, (len(obs), 1))
    picture = space.dtype == np.uint8
    if picture and len(space.shape) == 2:
        return _box(space, (1, *space.shape)), lambda obs: obs[:, None]
    channels_last = len(space.shape) == 3 and space.shape[-1] in _CHANNELS
    if picture and channels_last and space.shape[0] not in _CHANNELS:
        height, width, channels = space.shape
        return _box(space, (channels, height, width)), lambda obs: np.moveaxis(obs, -1, 1)
    return space, None


def _box(space: spaces.Box, shape: tuple[int, ...]) -> spaces.Box:
    low, high = space.low.min(), space.high.max()
    return spaces.Box(low, high, shape, space.dtype.type)
