"""Create single and vectorized environments, with actionable error messages."""

import difflib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, TypeAlias

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from dqn_lightning.envs.checks import CheckedEnv, CheckedVectorEnv
from dqn_lightning.envs.observations import adapt
from dqn_lightning.envs.state import RestoreByReplay, supports_state
from dqn_lightning.envs.vectors import SingleVectorEnv
from dqn_lightning.envs.workers import WorkerVectorEnv
from dqn_lightning.errors import ConfigError
from dqn_lightning.internals.gymnasium import is_raised_by_make, is_raised_by_wrapper

_log = logging.getLogger(__name__)

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
        step_timeout_s: Maximum time in seconds for one step or reset of environments in worker
            processes; unlimited if None.
    """

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: Sequence[Wrapper] = ()
    step_timeout_s: float | None = None

    def make(self) -> gym.Env[Any, Any]:
        """Create one wrapped environment whose state can be saved.

        Exceptions raised by the environment's constructor or by a wrapper are propagated, except in
        the cases listed below.

        Raises:
            ConfigError: If the id is unknown, a package is missing, the keyword arguments do not
                match the constructor's signature, a wrapper does not fit or does not return an
                environment, or `sys.exit` is called.
        """
        try:
            return self._make()
        except SystemExit as error:  # often a script without `if __name__ == "__main__"`
            raise ConfigError(
                f"data.env.id: {self.env_id} called sys.exit({error.code}) when it was created"
            ) from error

    def _make(self) -> gym.Env[Any, Any]:
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

        If the environments change the working directory when they are created, this is undone.

        Args:
            num_envs: Number of environments.
            vectorization: How the environments are stepped (see `EnvSettings`).

        Raises:
            ConfigError: If the environments cannot be created, do not support `vectorization`, or
                do not use `AutoresetMode.NEXT_STEP`.
        """
        with _restored_working_directory(self.env_id):
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
            return CheckedVectorEnv(self._make_native_vector(num_envs, first.spec))
        members = [partial(self._make_member, index) for index in range(num_envs)]
        if vectorization == "async":
            return WorkerVectorEnv(members, self.step_timeout_s)
        return SyncVectorEnv(members, copy=False)

    def _make_member(self, index: int) -> gym.Env[Any, Any]:
        return CheckedEnv(self.make(), index)

    def _choose_vectorization(self, num_envs: int, env: gym.Env[Any, Any]) -> Vectorization:
        if num_envs == 1:
            return "single"
        if self.env_kwargs or self.wrappers or env.spec is None:
            return "sync"
        if env.spec.vector_entry_point is None:
            return "sync"
        native = self._make_native_vector(1, env.spec)
        same_space = native.single_observation_space == env.observation_space
        same_mode = native.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP
        native.close()
        return "native" if same_space and same_mode else "sync"

    def _make_native_vector(self, num_envs: int, spec: EnvSpec | None) -> VectorEnv[Any, Any, Any]:
        if self.wrappers:
            raise ConfigError(
                "data.env.vectorization: native does not support data.env.wrappers, which wrap "
                "single environments; use sync or async"
            )
        if spec is None or spec.vector_entry_point is None:
            raise ConfigError(
                f"data.env.vectorization: {self.env_id} has no native vector implementation; use "
                "sync or async"
            )
        return gym.make_vec(
            self.env_id, num_envs, vectorization_mode="vector_entry_point", **self.env_kwargs
        )


@contextmanager
def _restored_working_directory(env_id: str) -> Iterator[None]:
    """Restore the working directory on exit, because the files of a run have relative paths."""
    directory = os.getcwd()
    try:
        yield
    finally:
        if (changed := os.getcwd()) != directory:
            os.chdir(directory)
            _report_changed_directory(env_id, changed)


@cache  # once per environment, not for each of its vectors
def _report_changed_directory(env_id: str, changed: str) -> None:
    _log.warning(
        "data.env.id: %s changed the working directory to %s; the previous one was restored, except"
        " in worker processes (data.env.vectorization async)",
        env_id,
        changed,
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
        if is_raised_by_wrapper(error):
            raise ConfigError(
                f"data.env.wrappers: {name} does not fit {env}: {type(error).__name__}: {error}"
            ) from error
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
