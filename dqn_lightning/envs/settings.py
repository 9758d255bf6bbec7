"""Settings for the training environments (`data.env`)."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from dqn_lightning.envs.factory import Vectorization
from dqn_lightning.errors import ConfigError


@dataclass(frozen=True)
class EnvSettings:
    """Settings for the training environments: their id, wrappers, number and vectorization.

    Args:
        id: Registered Gymnasium id, or `module:id` to import a module that registers it.
        kwargs: Keyword arguments for `gymnasium.make`.
        wrappers: Wrappers applied to each environment, innermost first.
        num_envs: Number of environments per rank.
        vectorization: How the environments are stepped: `single` (one environment, without
            vectorization; the fastest for one environment), `sync` (one after another), `async` (in
            subprocesses), `native` (the environment's own vector implementation), or `auto`
            (`single` for one environment, otherwise `native` if available, otherwise `sync`).
        step_timeout_s: Maximum time in seconds for one step or reset of all environments, after
            which training fails; unlimited if null. Only supported with `async`.

    Raises:
        ConfigError: If a setting is invalid, or `step_timeout_s` is not supported.
    """

    id: str = "CartPole-v1"
    kwargs: dict[str, Any] | None = None
    wrappers: list[Callable[[gym.Env], gym.Env]] | None = None
    num_envs: int = 1
    vectorization: Vectorization = "auto"
    step_timeout_s: float | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.num_envs < 1:
            raise ConfigError(f"data.env.num_envs: must be at least 1, got {self.num_envs}")
        check_time_limit(self.kwargs or {}, "data.env.kwargs")
        timeout_s = self.step_timeout_s
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(f"data.env.step_timeout_s: must be positive, got {timeout_s}")
        if timeout_s is not None and self.vectorization != "async":
            raise ConfigError(
                f"data.env.step_timeout_s: {timeout_s} needs data.env.vectorization async, where "
                f"environments have processes of their own, got {self.vectorization}"
            )


def check_time_limit(kwargs: Mapping[str, Any], flag: str) -> None:
    """Check the time limit in keyword arguments for `gymnasium.make`.

    Args:
        kwargs: Keyword arguments.
        flag: Name of the setting that holds them, for the error message.

    Raises:
        ConfigError: If `max_episode_steps` is neither a positive integer nor -1.
    """
    limit = kwargs.get("max_episode_steps")
    is_integer = isinstance(limit, int) and not isinstance(limit, bool)
    if limit is not None and not (is_integer and (limit > 0 or limit == -1)):
        raise ConfigError(
            f"{flag}.max_episode_steps: must be a positive integer, or -1 for no limit, got "
            f"{limit!r}"
        )


def as_env_settings(env: Any) -> EnvSettings:
    """Return settings that create environments like the given one.

    Args:
        env: Settings, a registered id, an environment with a `spec`, or a class or function that
            creates an environment. A class or function is registered with Gymnasium under its name.

    Raises:
        ConfigError: If `env` has another type, or is an environment that cannot be recreated.

    >>> as_env_settings("Acrobot-v1").id
    'Acrobot-v1'
    """
    if isinstance(env, EnvSettings):
        return env
    if isinstance(env, str):
        return EnvSettings(id=env)
    if isinstance(env, gym.Env):
        return _settings_of(env)
    if not callable(env):
        raise ConfigError(
            "data.env: must be an id, an environment, a class, a factory or EnvSettings, "
            f"got {env!r}"
        )
    return EnvSettings(id=_register(env))


def _register(make: Callable[..., gym.Env[Any, Any]]) -> str:
    """Return the id of a class or function in Gymnasium's registry; register it if needed."""
    name = getattr(make, "__qualname__", type(make).__name__).replace("<locals>.", "")
    name = "".join(c if c.isalnum() else "-" for c in name)
    for number in itertools.count():
        env_id = f"{name}-{number}-v0" if number else f"{name}-v0"
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=make)
        if gym.registry[env_id].entry_point == make:
            return env_id
    raise AssertionError  # unreachable


def _settings_of(env: gym.Env[Any, Any]) -> EnvSettings:
    """Return settings that recreate an environment created by `gymnasium.make`.

    Raises:
        ConfigError: If the environment has no registered `spec`, or has additional wrappers.
    """
    spec = env.spec
    if spec is None or spec.id not in gym.registry or spec.additional_wrappers:
        problem = "is wrapped" if spec and spec.additional_wrappers else "has no registered spec"
        raise ConfigError(
            f"data.env: {env} {problem}, so it cannot be made again; use "
            "EnvSettings(id=…, wrappers=[…]), or a class or factory"
        )
    kwargs = dict(spec.kwargs)
    limit = spec.max_episode_steps
    if limit != gym.spec(spec.id).max_episode_steps:
        kwargs["max_episode_steps"] = -1 if limit is None else limit  # -1: no time limit
    return EnvSettings(id=spec.id, kwargs=kwargs)
