"""Convert observations and actions to the format that the replay and the networks expect."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import TransformAction, TransformObservation
from torch import Tensor

from dqn_lightning.errors import ConfigError

_Transform: TypeAlias = Callable[[Any], Any]

_CHANNELS = (1, 3, 4)


def adapt(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Wrap a vector environment so that observations are arrays and actions start at 0.

    Images (uint8, [H, W, C] or [H, W]) are converted to [C, H, W]. Discrete observations are
    converted to vectors of class indices that start at 0. Scalars are converted to vectors with one
    element. Other observations are unchanged.

    Raises:
        ConfigError: If the actions are not discrete, or observations are not single arrays.
    """
    envs = _adapt_actions(envs)
    space, transform = _adapted(envs.single_observation_space)
    if transform is None:
        return envs
    return TransformObservation(envs, transform, single_observation_space=space)


def obs_classes(space: spaces.Space[Any]) -> tuple[int, ...] | None:
    """Return the number of classes of each element of a discrete observation; otherwise, None.

    Args:
        space: Observation space of a single environment, after conversion by `adapt`.
    """
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec)
    return None


def _adapt_actions(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    space = envs.single_action_space
    if not isinstance(space, spaces.Discrete):
        raise ConfigError(
            f"data.env.id: a DQN needs discrete actions, but the environment has {space}; "
            "discretize them with --data.env.wrappers+=gymnasium.wrappers.DiscretizeAction"
        )
    if space.start == 0:
        return envs
    start = int(space.start)
    return TransformAction(
        envs, lambda action: action + start, single_action_space=spaces.Discrete(int(space.n))
    )


def _adapted(space: spaces.Space[Any]) -> tuple[spaces.Space[Any], _Transform | None]:
    """Return the converted observation space, and a function that converts observations.

    Returns:
        The space of observations converted by `adapt`, and a function that converts a batch of
        observations; None instead of the function if observations are unchanged.

    Raises:
        ConfigError: If observations are not single arrays.
    """
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
        else "YOUR_WRAPPER that converts them to an array"
    )
    raise ConfigError(
        f"data.env.id: observations must be single arrays, but the environment has {space}; "
        f"add --data.env.wrappers+={wrapper}"
    )


def _adapted_box(space: spaces.Box) -> tuple[spaces.Space[Any], _Transform | None]:
    if space.shape == ():
        return _box(space, (1,)), lambda obs: np.reshape(obs, (len(obs), 1))
    image = space.dtype == np.uint8
    if image and len(space.shape) == 2:
        return _box(space, (1, *space.shape)), lambda obs: obs[:, None]
    channels_last = len(space.shape) == 3 and space.shape[-1] in _CHANNELS
    if image and channels_last and space.shape[0] not in _CHANNELS:
        height, width, channels = space.shape
        return _box(space, (channels, height, width)), lambda obs: np.moveaxis(obs, -1, 1)
    return space, None


def _box(space: spaces.Box, shape: tuple[int, ...]) -> spaces.Box:
    low, high = space.low.min(), space.high.max()
    return spaces.Box(low, high, shape, space.dtype.type)


def load_observations(
    path: str,
    obs_shape: tuple[int, ...],
    obs_dtype: torch.dtype,
    obs_classes: tuple[int, ...] | None,
) -> Tensor:
    """Load observations [B, …] from a `.npy` file, or from a `.pt` file that contains a tensor.

    Args:
        path: File to load.
        obs_shape: Shape of one observation with stacked frames.
        obs_dtype: Dtype of the environment's observations. Images (uint8) are not converted,
            because only uint8 values are scaled; other observations may have any real dtype.
        obs_classes: Number of classes for each element of an observation; None if not discrete.

    Raises:
        ConfigError: If the file cannot be read, or contains anything but finite observations of the
            environment's shape, dtype and classes.
    """
    try:
        if path.endswith(".npy"):
            obs = torch.from_numpy(np.load(path))
        else:
            obs = torch.load(path, weights_only=True)
    except Exception as error:  # unreadable files raise errors of many types
        kind = type(error).__name__
        raise ConfigError(f"data.observations: {path} cannot be read ({kind})") from error
    if problem := _problem_with(obs, obs_shape, obs_dtype, obs_classes):
        raise ConfigError(f"data.observations: {path} {problem}")
    return obs if obs_classes is not None else obs.to(obs_dtype)


def _problem_with(
    obs: Any,
    obs_shape: tuple[int, ...],
    obs_dtype: torch.dtype,
    obs_classes: tuple[int, ...] | None,
) -> str:
    """Return why loaded observations are invalid; an empty string if they are valid."""
    if not isinstance(obs, Tensor) or obs.layout is not torch.strided or obs.is_nested:
        return f"must contain a dense tensor, got {type(obs).__name__}"
    if tuple(obs.shape[1:]) != obs_shape or not len(obs):
        shape = ", ".join(map(str, obs_shape))
        return f"has shape {list(obs.shape)}, expected [number, {shape}]"
    is_image = obs_dtype == torch.uint8
    needs_integers = obs_classes is not None
    is_integer = not (obs.is_floating_point() or obs.is_complex())
    if obs.is_complex() or (is_image and obs.dtype != obs_dtype) or is_integer < needs_integers:
        expected = obs_dtype if is_image or needs_integers else "real numbers"
        return f"has dtype {obs.dtype}, expected {expected}"
    if obs_classes is not None:
        is_valid = (obs >= 0) & (obs < torch.tensor(obs_classes))
    else:
        is_valid = torch.isfinite(obs)
    if is_valid.all():
        return ""
    row = int((~is_valid).flatten(1).any(1).nonzero()[0])
    what = "a class out of range" if obs_classes is not None else "a value that is not finite"
    return f"has {what} in observation {row}"
