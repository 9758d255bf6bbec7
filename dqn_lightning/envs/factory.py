"""Create single and vectorized environments, with actionable error messages."""

import difflib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import Autoreset

from dqn_lightning.envs.observations import adapt
from dqn_lightning.envs.state import (
    NotRestorableError,
    RestoreByReplay,
    env_state,
    load_env_state,
    supports_state,
)
from dqn_lightning.envs.vectors import SingleVectorEnv
from dqn_lightning.errors import ConfigError, EnvironmentFailure
from dqn_lightning.internals.gymnasium import is_raised_by_make

Wrapper: TypeAlias = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
"""Function or class that wraps an environment."""

Vectorization: TypeAlias = Literal["auto", "single", "sync", "async", "native"]
"""How a vector of environments is stepped.

`single`: one environment, without vectorization; `sync`: one after another; `async`: in
subprocesses; `native`: the environment's own vector implementation; `auto`: `single` for one
environment, otherwise `native` if available, otherwise `sync`.
"""

_EXTRAS = {"Box2D": "box2d", "box2d": "box2d", "swig": "box2d"}
"""Words in Gymnasium's messages about missing packages, with the extra that installs each."""


@dataclass(frozen=True)
class EnvFactory:
    """Factory for single and vectorized environments.

    Args:
        env_id: Registered Gymnasium id, or `module:id` to import a module that registers it.
        env_kwargs: Keyword arguments for `gymnasium.make`.
        wrappers: Wrappers applied to each environment, innermost first.
    """

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: Sequence[Wrapper] = ()

    def make(self) -> gym.Env[Any, Any]:
        """Create one wrapped environment whose state can be saved.

        Exceptions raised by the environment's constructor or by a wrapper are propagated, except in
        the cases listed below.

        Raises:
            ConfigError: If the id is unknown, a package is missing, the keyword arguments do not
                match the constructor's signature, or a wrapper does not return an environment.
        """
        _render_offscreen_without_display()
        try:
            env = gym.make(self.env_id, disable_env_checker=True, **self.env_kwargs)
        except gym.error.DependencyNotInstalled as error:
            raise ConfigError(_missing_package_message(self.env_id, error)) from error
        except (gym.error.Error, ModuleNotFoundError) as error:
            raise ConfigError(_unknown_id_message(self.env_id, error)) from error
        except TypeError as error:
            if not is_raised_by_make(error):
                raise
            raise ConfigError(
                f"data.env.kwargs: {self.env_id} does not accept {dict(self.env_kwargs)}: {error}"
            ) from error
        env = _with_state(env)
        for wrapper in self.wrappers:
            env = _wrap(env, wrapper)
        return _with_state(env)

    def make_vector(
        self, num_envs: int, vectorization: Vectorization = "auto"
    ) -> VectorEnv[Any, Any, Any]:
        """Create a vector environment, with observations and actions converted by `adapt`.

        Args:
            num_envs: Number of environments.
            vectorization: How the environments are stepped (see `EnvSettings`).

        Raises:
            ConfigError: If the environments cannot be created, do not support `vectorization`, or
                do not use `AutoresetMode.NEXT_STEP`.
        """
        envs = adapt(self._make_unadapted_vector(num_envs, vectorization))
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise ConfigError(
                f"data.env.vectorization: {self.env_id} uses {mode}, but only "
                "AutoresetMode.NEXT_STEP is supported; use sync or async"
            )
        return envs

    def _make_unadapted_vector(
        self, num_envs: int, vectorization: Vectorization
    ) -> VectorEnv[Any, Any, Any]:
        first = self.make()  # reports errors in this process, before any worker starts
        if vectorization == "auto":
            vectorization = self._choose_vectorization(num_envs, first)
        if vectorization == "single":
            if num_envs != 1:
                raise ConfigError(
                    f"data.env.vectorization: single needs data.env.num_envs 1, got {num_envs}"
                )
            return SingleVectorEnv(first)
        first.close()
        if vectorization == "native":
            return self._make_native_vector(num_envs)
        if vectorization == "async":
            workers = [partial(self._make_in_worker, index) for index in range(num_envs)]
            # A wrapper in each worker performs the autoreset, because a worker's own flag for it
            # cannot be restored.
            envs = AsyncVectorEnv(workers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
            envs.metadata = {**envs.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
            return envs
        members = [partial(self._make_member, index) for index in range(num_envs)]
        return SyncVectorEnv(members, copy=False)

    def _make_member(self, index: int) -> gym.Env[Any, Any]:
        return _NameFailedEnv(self.make(), index)

    def _make_in_worker(self, index: int) -> gym.Env[Any, Any]:
        # Gymnasium also creates one environment in the main process, to read its spaces.
        if multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
        return _WorkerState(Autoreset(self._make_member(index)), index)

    def _choose_vectorization(self, num_envs: int, env: gym.Env[Any, Any]) -> Vectorization:
        if num_envs == 1:
            return "single"
        if self.env_kwargs or self.wrappers or env.spec is None:
            return "sync"
        if env.spec.vector_entry_point is None:
            return "sync"
        native = self._make_native_vector(1)
        same_space = native.single_observation_space == env.observation_space
        same_mode = native.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP
        native.close()
        return "native" if same_space and same_mode else "sync"

    def _make_native_vector(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        if self.wrappers:
            raise ConfigError(
                "data.env.vectorization: native does not support data.env.wrappers, which wrap "
                "single environments; use sync or async"
            )
        if gym.spec(self.env_id).vector_entry_point is None:
            raise ConfigError(
                f"data.env.vectorization: {self.env_id} has no native vector implementation; use "
                "sync or async"
            )
        return gym.make_vec(
            self.env_id, num_envs, vectorization_mode="vector_entry_point", **self.env_kwargs
        )


def _with_state(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env if supports_state(env) else RestoreByReplay(env)


def _wrap(env: gym.Env[Any, Any], wrapper: Wrapper) -> gym.Env[Any, Any]:
    name = _wrapper_name(wrapper)
    if not callable(wrapper):
        raise ConfigError(
            f"data.env.wrappers: {name} is not callable; use a class or function that takes an "
            "environment and returns one"
        )
    try:
        wrapped = wrapper(env)
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(
            f"data.env.wrappers: {name} needs a package that is not installed: {error}"
        ) from error
    except Exception as error:
        if add_note := getattr(error, "add_note", None):  # Python 3.11 and later
            add_note(f"raised by the wrapper {name} (data.env.wrappers)")
        raise
    if not isinstance(wrapped, gym.Env):
        raise ConfigError(
            f"data.env.wrappers: {name} must return an environment, got {type(wrapped).__name__}"
        )
    return wrapped


def _wrapper_name(wrapper: Any) -> str:
    """Return the name of a wrapper class or function, unwrapping `functools.partial`."""
    if isinstance(wrapper, partial):  # the command line creates these, with the class as argument
        classes = [part for part in (wrapper.func, *wrapper.args) if isinstance(part, type)]
        wrapper = classes[-1] if classes else wrapper.func
    return str(getattr(wrapper, "__name__", repr(wrapper)))


class _NameFailedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that converts exceptions to `EnvironmentFailure`, with the environment's index.

    The index is part of the error message, because `AsyncVectorEnv` passes only the type and the
    message of an exception to the main process.
    """

    def __init__(self, env: gym.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index = index

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            return self.env.step(action)
        except Exception as error:
            raise self._failure(error) from error

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        try:
            return self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> EnvironmentFailure:
        message = f"environment {self.index} raised {type(error).__name__}: {error}"
        return EnvironmentFailure(message)


class _WorkerState(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that gives the main process access to the environment state in a worker process."""

    def __init__(self, env: gym.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index = index

    def saved_state(self) -> list[Any]:
        """Return the state of this worker's environment, as returned by `env_state`."""
        return env_state(self.env)

    def restore_state(self, states: list[Any]) -> str:
        """Restore the state of this worker's environment.

        An error is returned instead of raised, because an exception would end the worker process.

        Args:
            states: States of the environments of all workers.

        Returns:
            An error message, or an empty string on success.
        """
        try:
            load_env_state(self.env, states[self.index])
        except NotRestorableError as error:
            return str(error)
        return ""


def has_display() -> bool:
    """Return whether pygame can open a window."""
    if os.environ.get("SDL_VIDEODRIVER") == "dummy":
        return False
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    return not sys.platform.startswith("linux") or any(map(os.environ.get, displays))


def _render_offscreen_without_display() -> None:
    """Configure pygame to render to memory if there is no display."""
    if not has_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _missing_package_message(env_id: str, error: Exception) -> str:
    extra = next((extra for word, extra in _EXTRAS.items() if word in str(error)), None)
    install = f"pip install -e '.[{extra}]'" if extra else str(error)
    return f"data.env.id: {env_id} needs a package that is not installed: {install}"


def _unknown_id_message(env_id: str, error: Exception) -> str:
    closest = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.5)
    hint = f"; similar ids: {', '.join(closest)}" if closest else ""
    return f"data.env.id: {env_id} cannot be created{hint} ({error})"
