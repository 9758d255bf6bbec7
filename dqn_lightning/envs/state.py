"""The state of environments: taken, and given back, without pickling anything.

An environment is a chain of layers, wrappers around the environment itself. Each gives its own
state: by the protocol `Stateful`, if it has its two methods, or by its attributes, if it is one of
Gymnasium's simple ones, whose attributes are all there is. Any other chain is `Retraced`: its
running episode is played again.
"""

import copy
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Space
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from dqn_lightning.envs.single import SingleVectorEnv
from dqn_lightning.plain import NotPlainError, plain, restored

_BY_ATTRIBUTES = (
    "gymnasium.envs.classic_control.",
    "gymnasium.envs.toy_text.",
    "gymnasium.wrappers.",
    "dqn_lightning.envs.",
)
"""Modules whose environments and wrappers keep all their state in plain attributes."""

_CONSTANT = ("P", "desc", "initial_state_distrib", "_saved_kwargs")
"""Attributes of those that never change, and are large or no plain values."""


@runtime_checkable
class Stateful(Protocol):
    """An environment or wrapper that can be continued from a state: two methods."""

    def state_dict(self) -> Any:
        """Its own state, its random generator's included; plain values, arrays and generators."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Go on from there."""
        ...


class CannotRestoreError(Exception):
    """The saved state cannot be reached again."""


def can_give_state(env: gym.Env[Any, Any]) -> bool:
    """Whether every layer can give its state."""
    for layer in _layers(env):
        if isinstance(layer, Stateful):
            continue
        try:
            _state(layer)
        except NotPlainError:
            return False
    return True


def env_state(env: gym.Env[Any, Any]) -> list[Any]:
    """State of each layer, the outermost first.

    Raises:
        NotPlainError: If a layer cannot give it.
    """
    return [_state(layer) for layer in _layers(env)]


def load_env_state(env: gym.Env[Any, Any], state: list[Any]) -> None:
    """Go on from there.

    Raises:
        CannotRestoreError: If the layers are others, or the state cannot be reached again.
    """
    layers = list(_layers(env))
    if len(layers) != len(state):
        raise CannotRestoreError(f"{env} has {len(layers)} layers, the saved one {len(state)}")
    for layer, its_state in zip(layers, state, strict=True):
        _load(layer, its_state)


def vector_state(envs: VectorEnv[Any, Any, Any]) -> dict[str, Any]:
    """State of all environments of a vector, and which of them reset in their next step.

    Raises:
        NotPlainError: If it is a vector environment of its own kind that cannot give it.
    """
    vector: Any = envs.unwrapped
    if isinstance(vector, SingleVectorEnv):
        return {"ended": vector.ended, "envs": [env_state(vector.env)]}
    if isinstance(vector, SyncVectorEnv):
        states = [env_state(env) for env in vector.envs]
        return {"ended": plain(vector._autoreset_envs), "envs": states}
    if isinstance(vector, AsyncVectorEnv):
        return {"envs": list(vector.call("state_dict_of_layers"))}
    if isinstance(vector, Stateful):
        return {"vector": plain(vector.state_dict())}
    if not f"{type(vector).__module__}.".startswith(_BY_ATTRIBUTES):
        raise NotPlainError(type(vector).__name__)
    return {"vector": _attributes(vector)}


def load_vector_state(envs: VectorEnv[Any, Any, Any], state: dict[str, Any]) -> None:
    """Go on from there.

    Raises:
        CannotRestoreError: If it was another kind of vector, or one of its environments cannot
            reach its state again.
    """
    vector: Any = envs.unwrapped
    if "envs" in state and len(state["envs"]) != envs.num_envs:
        raise CannotRestoreError(f"{len(state['envs'])} environments were saved")
    if isinstance(vector, (SingleVectorEnv, SyncVectorEnv)) and "ended" in state:
        members = [vector.env] if isinstance(vector, SingleVectorEnv) else vector.envs
        for env, its_state in zip(members, state["envs"], strict=True):
            load_env_state(env, its_state)
        if isinstance(vector, SingleVectorEnv):
            vector.ended = state["ended"]
        else:
            vector._autoreset_envs = restored(state["ended"])
    elif isinstance(vector, AsyncVectorEnv) and "ended" not in state:
        failures = [failure for failure in vector.call("load_layers", state["envs"]) if failure]
        if failures:
            raise CannotRestoreError(failures[0])
    elif isinstance(vector, Stateful) and "vector" in state:
        vector.load_state_dict(restored(state["vector"]))
    elif "vector" in state:
        _load_attributes(vector, state["vector"])
    else:
        raise CannotRestoreError("another kind of vector environment was saved")


class Retraced(gym.Wrapper[Any, Any, Any, Any]):
    """Remembers how the running episode came about, to play it again.

    Its state is the generator's before the last reset and the actions since. The episode that they
    make must end on the observation that was saved, or else the environment is not deterministic.

    For an Arcade environment it is the emulator's state before the reset. The one of now would not
    do: it lacks the last action, which a sticky one repeats (ale-py 0.12).
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._start: Any = None
        self._actions: list[int] = []
        self._obs: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self._start = self._before_reset() if seed is None else seed
        self._actions.clear()
        self._obs, info = self.env.reset(seed=seed, options=options)
        return self._obs, info

    @property
    def _base(self) -> Any:
        return self.env.unwrapped

    def _before_reset(self) -> Any:
        if hasattr(self._base, "ale"):
            return self._base.ale.cloneState(include_rng=True).serialize()
        return copy.deepcopy(self._base.np_random)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step."""
        self._actions.append(int(action))
        self._obs, reward, terminated, truncated, info = self.env.step(action)
        return self._obs, reward, terminated, truncated, info

    def state_dict(self) -> Any:
        """How the running episode came about, and its newest observation."""
        actions = np.array(self._actions, np.int64)
        return {"start": self._start, "actions": actions, "obs": np.asarray(self._obs)}

    def load_state_dict(self, state: Any) -> None:
        """Play the episode again.

        Raises:
            CannotRestoreError: If it ends on another observation.
        """
        start = state["start"]
        if isinstance(start, bytes):
            import ale_py

            self._base.ale.restoreState(ale_py.ALEState(start))
        elif not isinstance(start, int):
            self._base.np_random = start
        self.reset(seed=start if isinstance(start, int) else None)
        for action in state["actions"]:
            _, _, terminated, truncated, _ = self.step(action)
            if (terminated or truncated) and len(self._actions) < len(state["actions"]):
                raise CannotRestoreError(f"{self.env} is not deterministic: the episode was over")
        if not np.array_equal(self._obs, state["obs"]):
            raise CannotRestoreError(f"{self.env} is not deterministic: it ended elsewhere")


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Wrappers from the outermost inwards, then the environment; none inside `Retraced`."""
    while True:
        yield env
        if isinstance(env, Retraced) or not isinstance(env, gym.Wrapper):
            return
        env = env.env


def _state(layer: Any) -> Any:
    if isinstance(layer, Stateful):
        return plain(layer.state_dict())
    if not f"{type(layer).__module__}.".startswith(_BY_ATTRIBUTES):
        raise NotPlainError(type(layer).__name__)
    return _attributes(layer)


def _load(layer: Any, state: Any) -> None:
    if isinstance(layer, Stateful):
        layer.load_state_dict(restored(state))
    else:
        _load_attributes(layer, state)


def _attributes(owner: Any) -> dict[str, Any]:
    """Attributes that may change; objects of Gymnasium's, as running means, by theirs."""
    state = {}
    for name, value in vars(owner).items():
        if name in _CONSTANT or _says_nothing(value):
            continue
        if type(value).__module__.startswith("gymnasium.wrappers."):
            state[name] = {"attributes": _attributes(value)}
        else:
            state[name] = {"value": plain(value)}
    return state


def _load_attributes(owner: Any, state: dict[str, Any]) -> None:
    for name, saved in state.items():
        if "attributes" in saved:
            _load_attributes(getattr(owner, name), saved["attributes"])
        else:
            setattr(owner, name, restored(saved["value"]))


def _says_nothing(value: Any) -> bool:
    """Whether a value is part of how the environment is made, or of how it draws."""
    made = (gym.Env, VectorEnv, Space, EnvSpec, ModuleType, type)
    drawn = type(value).__module__.startswith("pygame")
    return isinstance(value, made) or callable(value) or drawn
