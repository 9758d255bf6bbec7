"""Check what environments return, before vectorization copies and casts it.

Vectorization would broadcast an observation of the wrong shape, cast floats to uint8, and accept
any object as `terminated`. The checks run in every environment step, so a value that has exactly
the expected type takes a fast path, and only other values are examined closely.
"""

from collections.abc import Callable
from math import isfinite, prod
from typing import Any, NoReturn, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from dqn_lightning.errors import EnvironmentFailure, InvalidEnvironmentError

_IsValid: TypeAlias = Callable[[Any], bool]

_SMALL = 16
"""Number of elements up to which a Python loop tests an array faster than NumPy (CartPole: 4)."""

_NUMBERS, _BOOLEANS = (float, np.float64, np.float32), (bool, np.bool_)


class OutputCheck:
    """Check of the values that one environment returns.

    The class of an observation must be one of its `Discrete`, `MultiDiscrete` or `MultiBinary`
    space. The bounds of a `Box` are not checked, because many environments exceed them slightly.
    A dtype of the same kind as the space's is accepted (float64 for float32, for example).

    Args:
        space: Observation space of the environment.
        env_index: Index of the environment, for error messages.
    """

    def __init__(self, space: spaces.Space[Any], env_index: int) -> None:
        self._space = space
        self._index = env_index
        self._is_valid = _fast_check(space, space.shape or ())

    def obs(self, obs: Any) -> None:
        """Check an observation returned by `reset`.

        Raises:
            InvalidEnvironmentError: If its shape, dtype or class does not match the space, or if it
                is not finite.
        """
        if not self._is_valid(obs):
            self._examine_obs(obs)

    def step(self, obs: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Check the values returned by `step`.

        Raises:
            InvalidEnvironmentError: If the observation is invalid (see `obs`), the reward is not a
                finite number, or `terminated` or `truncated` is not a boolean.
        """
        if not self._is_valid(obs):
            self._examine_obs(obs)
        if not ((type(reward) in _NUMBERS and isfinite(reward)) or _is_finite_number(reward)):
            self._fail(f"the reward {reward!r}, which is not a finite number")
        if not (type(terminated) in _BOOLEANS and type(truncated) in _BOOLEANS):
            for name, flag in {"terminated": terminated, "truncated": truncated}.items():
                if not _is_boolean(flag):
                    self._fail(f"{name}={flag!r}, which is not a boolean")

    def _examine_obs(self, obs: Any) -> None:
        """Check an observation that may need to be converted, or is wrong."""
        space: Any = self._space
        dtype, shape = space.dtype, space.shape
        if dtype is None or shape is None:
            return  # a space that `adapt` refuses
        try:
            array = np.asarray(obs)
        except Exception:  # sequences of unequal lengths, for example
            self._fail(f"an observation that is not an array: {_shorten(obs)}")
        if array.shape != shape:
            self._fail(f"an observation of shape {array.shape}, but its space has shape {shape}")
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            self._fail(f"an observation of dtype {array.dtype}, but its space has dtype {dtype}")
        if dtype.kind == "f" and not np.isfinite(array).all():
            self._fail(f"an observation that is not finite: {_shorten(array)}")
        if not _is_in_range(space, array):
            self._fail(f"the observation {_shorten(array)}, which is not in its space {space}")

    def _fail(self, what: str) -> NoReturn:
        raise InvalidEnvironmentError(f"environment {self._index} returned {what}")


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that checks what an environment returns, and names the environment if it fails.

    `AsyncVectorEnv` passes only the type and message of an exception to the main process.
    """

    def __init__(self, env: gym.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index = index
        check = OutputCheck(env.observation_space, index)
        self._check_obs, self._check_step = check.obs, check.step

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step and check the returned values.

        Raises:
            EnvironmentFailure: If the environment raised an exception or returned invalid values.
        """
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except (Exception, SystemExit) as error:
            raise_failure(self.index, error)
        self._check_step(obs, reward, terminated, truncated)
        return obs, reward, terminated, truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode and check its first observation.

        Raises:
            EnvironmentFailure: If the environment raised an exception or returned an invalid
                observation.
        """
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except (Exception, SystemExit) as error:
            raise_failure(self.index, error)
        self._check_obs(obs)
        return obs, info


class CheckedVectorEnv(VectorWrapper[Any, Any, Any, Any, Any]):
    """Wrapper that checks what a native vector environment returns."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        space, num_envs = env.single_observation_space, env.num_envs
        self._is_valid = _fast_check(space, (num_envs, *(space.shape or ())))
        self._shape = (num_envs,)  # of rewards and masks
        self._checks = [OutputCheck(space, index) for index in range(num_envs)]

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start all episodes and check their first observations.

        Raises:
            InvalidEnvironmentError: If an observation is invalid.
        """
        obs, infos = self.env.reset(seed=seed, options=options)
        if not self._is_valid(obs):
            self._check_batch(OutputCheck.obs, obs)
        return obs, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments and check the returned values.

        Raises:
            InvalidEnvironmentError: If a value is invalid.
        """
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        if not (
            self._is_valid(obs)
            and self._is_finite(reward)
            and self._is_mask(terminated)
            and self._is_mask(truncated)
        ):
            self._check_batch(OutputCheck.step, obs, reward, terminated, truncated)
        return obs, reward, terminated, truncated, infos

    def _is_finite(self, reward: Any) -> bool:
        return (
            type(reward) is np.ndarray
            and reward.dtype.kind == "f"
            and reward.shape == self._shape
            and _is_certainly_finite(reward)
        )

    def _is_mask(self, flags: Any) -> bool:
        return type(flags) is np.ndarray and flags.dtype == np.bool_ and flags.shape == self._shape

    def _check_batch(self, check: Callable[..., None], obs: Any, *others: Any) -> None:
        """Check the values of each environment, to find the one that returned an invalid value."""
        for shape in (np.shape(obs)[:1], *map(np.shape, others)):
            if shape != self._shape:
                raise InvalidEnvironmentError(
                    f"the vector environment returned an array of shape {shape} for "
                    f"{self.num_envs} environments"
                )
        for env_check, *values in zip(self._checks, obs, *others, strict=True):
            check(env_check, *values)


def raise_failure(env_index: int, error: BaseException) -> NoReturn:
    """Raise an `EnvironmentFailure` for an exception that an environment raised.

    Args:
        env_index: Index of the environment.
        error: The exception, which becomes the cause of the failure; a `SystemExit` does not.

    Raises:
        EnvironmentFailure: Always.
    """
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        raise InvalidEnvironmentError(f"environment {env_index} called sys.exit({code})") from None
    message = f"environment {env_index} raised {type(error).__name__}: {error}"
    raise EnvironmentFailure(message) from error


def _fast_check(space: spaces.Space[Any], shape: tuple[int, ...]) -> _IsValid:
    """Return a function that tests whether an observation is certainly valid.

    For speed, the function returns False for some valid observations, for example those of another
    dtype.

    Args:
        space: Observation space of one environment.
        shape: Shape of the observation or of a batch of observations.
    """
    dtype = space.dtype

    def has_format(obs: Any) -> bool:
        return type(obs) is np.ndarray and obs.dtype is dtype and obs.shape == shape

    if dtype is not None and dtype.kind == "f":
        if len(shape) == 1 and prod(shape) <= _SMALL:  # without further calls
            return lambda obs: (
                type(obs) is np.ndarray
                and obs.dtype is dtype
                and obs.shape == shape
                and isfinite(sum(obs.tolist()))
            )
        return lambda obs: has_format(obs) and _is_certainly_finite(obs)
    if isinstance(space, spaces.Discrete) and not shape:
        start, stop = int(space.start), int(space.start + space.n)
        return lambda obs: type(obs) in (int, np.int64) and start <= obs < stop
    if isinstance(space, spaces.Box):
        return has_format
    return lambda obs: has_format(obs) and _is_in_range(space, obs)


def _is_certainly_finite(array: NDArray[Any]) -> bool:
    """Return whether all elements are finite; possibly False if finite elements are huge."""
    flat = array.ravel("K")  # usually a view: native vectors return transposed arrays
    if flat.size <= _SMALL:
        return isfinite(sum(flat.tolist()))
    return isfinite(np.vdot(flat, flat))  # unlike np.sum and np.dot, never warns of an overflow


def _is_in_range(space: Any, obs: NDArray[Any]) -> bool:
    """Return whether an observation, or a batch of them, consists of the space's classes.

    An observation of a `Box` of integers is in range if a cast to the space's dtype preserves it.
    """
    if isinstance(space, spaces.Box):
        return space.dtype.kind == "f" or bool((obs.astype(space.dtype) == obs).all())
    if isinstance(space, spaces.Discrete):
        start, num_classes = space.start, space.n
    elif isinstance(space, spaces.MultiDiscrete):
        start, num_classes = space.start, space.nvec
    else:
        start, num_classes = 0, 2  # MultiBinary
    return bool(((obs >= start) & (obs < start + num_classes)).all())


def _is_finite_number(value: Any) -> bool:
    """Return whether a value is a finite real number, or an array that contains only one."""
    array = np.asarray(value)
    return array.dtype.kind in "fiub" and array.size == 1 and isfinite(array.item())


def _is_boolean(flag: Any) -> bool:
    """Return whether a value is a boolean, or an array that contains only one."""
    if type(flag) in _BOOLEANS:
        return True
    array = np.asarray(flag)
    return array.dtype == np.bool_ and array.size == 1


def _shorten(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"
