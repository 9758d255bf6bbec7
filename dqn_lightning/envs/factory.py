"""Makes environments, one or many, with errors that say what to do."""

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
from dqn_lightning.envs.single import SingleVectorEnv
from dqn_lightning.envs.state import (
    CannotRestoreError,
    Retraced,
    can_give_state,
    env_state,
    load_env_state,
)
from dqn_lightning.errors import ConfigError, EnvironmentFailure

Vectorization: TypeAlias = Literal["auto", "single", "sync", "async", "native"]
"""How environments are stepped together. `single`: one, without the cost of a vector; `sync`: in
turn; `async`: in processes; `native`: the environment's own vector version; `auto`: `single` for
one, else `native` where there is one, else `sync`."""

_EXTRAS = {"Box2D": "box2d", "box2d": "box2d", "swig": "box2d"}


@dataclass(frozen=True)
class EnvFactory:
    """Makes the environments of a run.

    Args:
        env_id: A registered id, or `module:id` for one that registers itself when imported.
        env_kwargs: Passed to `gymnasium.make`.
        wrappers: Applied to each environment, the first one innermost.
    """

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: Sequence[Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]] = ()

    def make(self) -> gym.Env[Any, Any]:
        """One environment.

        Raises:
            ConfigError: If it cannot be made.
        """
        _draw_without_display()
        try:
            env = gym.make(self.env_id, disable_env_checker=True, **self.env_kwargs)
            env = _with_state(env)
            for wrapper in self.wrappers:
                env = wrapper(env)
            env = _with_state(env)
        except gym.error.DependencyNotInstalled as error:
            raise ConfigError(_missing_dependency(self.env_id, error)) from error
        except (gym.error.Error, ModuleNotFoundError) as error:
            raise ConfigError(_unknown(self.env_id, error)) from error
        except TypeError as error:
            raise ConfigError(
                f"data.env_kwargs: {self.env_id} does not take {dict(self.env_kwargs)}: {error}"
            ) from error
        return env

    def make_vector(
        self, num_envs: int, vectorization: Vectorization = "auto"
    ) -> VectorEnv[Any, Any, Any]:
        """`num_envs` environments as one vector, observations and actions adapted.

        Raises:
            ConfigError: If they cannot be made, or not in this way.
        """
        envs = adapt(self._vector(num_envs, vectorization))
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise ConfigError(
                f"data.vectorization: {self.env_id} resets itself in mode {mode}, "
                f"only AutoresetMode.NEXT_STEP is supported; use sync or async"
            )
        return envs

    def _vector(self, num_envs: int, vectorization: Vectorization) -> VectorEnv[Any, Any, Any]:
        first = self.make()  # also says what is wrong, in this process, before any worker starts
        if vectorization == "auto":
            vectorization = self._choose(num_envs, first)
        if vectorization == "single":
            if num_envs != 1:
                raise ConfigError(
                    f"data.vectorization: single means data.num_envs 1, not {num_envs}"
                )
            return SingleVectorEnv(first)
        first.close()
        if vectorization == "native":
            return self._native(num_envs)
        if vectorization == "async":
            workers = [partial(self._make_in_worker, number) for number in range(num_envs)]
            # Which environments reset next is kept in a wrapper, for a worker's own note of it
            # could not be restored.
            envs = AsyncVectorEnv(workers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
            envs.metadata = {**envs.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
            return envs
        makers = [partial(self._make_numbered, number) for number in range(num_envs)]
        return SyncVectorEnv(makers, copy=False)

    def _make_numbered(self, number: int) -> gym.Env[Any, Any]:
        return _Numbered(self.make(), number)

    def _make_in_worker(self, number: int) -> gym.Env[Any, Any]:
        if multiprocessing.parent_process() is not None:  # Gymnasium makes one in this process too
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
        return _Worker(Autoreset(self._make_numbered(number)), number)

    def _choose(self, num_envs: int, env: gym.Env[Any, Any]) -> Vectorization:
        if num_envs == 1:
            return "single"
        if self.env_kwargs or self.wrappers or env.spec is None:
            return "sync"
        if env.spec.vector_entry_point is None:
            return "sync"
        native = self._native(1)
        same = native.single_observation_space == env.observation_space
        usable = native.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP
        native.close()
        return "native" if same and usable else "sync"

    def _native(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        if self.wrappers:
            raise ConfigError(
                "data.vectorization: wrappers wrap single environments, native has none; "
                "use sync or async"
            )
        if gym.spec(self.env_id).vector_entry_point is None:
            raise ConfigError(
                f"data.vectorization: {self.env_id} has no vector version of its own; "
                "use sync or async"
            )
        return gym.make_vec(
            self.env_id, num_envs, vectorization_mode="vector_entry_point", **self.env_kwargs
        )


def _with_state(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env if can_give_state(env) else Retraced(env)


class _Numbered(gym.Wrapper[Any, Any, Any, Any]):
    """Says which environment raised; in words, for they survive the way out of a worker."""

    def __init__(self, env: gym.Env[Any, Any], number: int) -> None:
        super().__init__(env)
        self.number = number

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
        what = f"environment {self.number} raised {type(error).__name__}: {error}"
        return EnvironmentFailure(what)


class _Worker(gym.Wrapper[Any, Any, Any, Any]):
    """What the main process asks a worker for, besides steps."""

    def __init__(self, env: gym.Env[Any, Any], number: int) -> None:
        super().__init__(env)
        self.number = number

    def state_dict_of_layers(self) -> list[Any]:
        return env_state(self.env)

    def load_layers(self, states: list[Any]) -> str:
        """Give this worker's environment its state back; says what went wrong, or nothing."""
        try:
            load_env_state(self.env, states[self.number])
        except CannotRestoreError as error:  # raised, it would end the worker
            return str(error)
        return ""


def has_display() -> bool:
    """Whether there is a screen that pygame can open a window on."""
    if os.environ.get("SDL_VIDEODRIVER") == "dummy":
        return False
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    return not sys.platform.startswith("linux") or any(map(os.environ.get, displays))


def _draw_without_display() -> None:
    """Let pygame draw into memory where there is no screen."""
    if not has_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _missing_dependency(env_id: str, error: Exception) -> str:
    extra = next((extra for word, extra in _EXTRAS.items() if word in str(error)), None)
    install = f"pip install -e '.[{extra}]'" if extra else str(error)
    return f"data.env_id: {env_id} needs a package that is not installed: {install}"


def _unknown(env_id: str, error: Exception) -> str:
    nearest = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return f"data.env_id: {env_id} cannot be made{hint} ({error})"
