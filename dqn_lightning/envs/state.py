"""Save and restore the state of environments without pickle.

An environment consists of layers: the wrappers and the base environment. The state of a layer that
implements `Stateful` is the value returned by its `state_dict`. The state of Gymnasium's wrappers,
and of its classic-control and toy-text environments, consists of their attributes. If the state of
a layer cannot be saved in either of these ways, the environment is wrapped in `RestoreByReplay`,
which restores the environment by repeating the actions of the episode in progress.
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

from dqn_lightning.checkpointing.serialization import (
    NotSerializableError,
    from_bytes,
    from_plain,
    to_bytes,
    to_plain,
)
from dqn_lightning.envs.vectors import SingleVectorEnv
from dqn_lightning.internals.gymnasium import (
    RECORDED_ARGUMENTS,
    envs_to_reset,
    set_envs_to_reset,
)

_STATE_IN_ATTRIBUTES = (
    "gymnasium.envs.classic_control.",
    "gymnasium.envs.toy_text.",
    "gymnasium.wrappers.",
    "dqn_lightning.envs.",
)
"""Modules whose environments and wrappers keep their state in attributes that can be serialized."""

_CONSTANT_ATTRIBUTES = ("P", "desc", "initial_state_distrib", RECORDED_ARGUMENTS)
"""Attributes that are not saved: they never change, and are large or not serializable."""


@runtime_checkable
class Stateful(Protocol):
    """Environment or wrapper that can save and restore its own state."""

    def state_dict(self) -> Any:
        """Return the state, which may contain plain values, arrays and random generators."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Restore a state returned by `state_dict`."""
        ...


class NotRestorableError(Exception):
    """Error raised if an environment cannot be restored to its saved state."""


def supports_state(env: gym.Env[Any, Any]) -> bool:
    """Return whether the state of an environment, including all its wrappers, can be saved."""
    for layer in _layers(env):
        if isinstance(layer, Stateful):
            continue
        try:
            _state(layer)
        except NotSerializableError:
            return False
    return True


def env_state(env: gym.Env[Any, Any]) -> list[Any]:
    """Return the state of each layer (wrapper or base environment), outermost first.

    Raises:
        NotSerializableError: If the state of a layer cannot be saved.
    """
    return [_state(layer) for layer in _layers(env)]


def load_env_state(env: gym.Env[Any, Any], state: list[Any]) -> None:
    """Restore the state of each layer (wrapper or base environment).

    Args:
        env: An environment with the same layers as the saved environment.
        state: State returned by `env_state`.

    Raises:
        NotRestorableError: If the number of layers differs, or a layer cannot be restored.
    """
    layers = list(_layers(env))
    if len(layers) != len(state):
        raise NotRestorableError(
            f"{env} has {len(layers)} layers, the saved environment has {len(state)}"
        )
    for layer, layer_state in zip(layers, state, strict=True):
        _load(layer, layer_state)


def vector_state(envs: VectorEnv[Any, Any, Any]) -> dict[str, Any]:
    """Return the state of a vector environment, including which environments will reset next.

    Raises:
        NotSerializableError: If the state of the vector environment cannot be saved.
    """
    vector: Any = envs.unwrapped
    if isinstance(vector, SingleVectorEnv):
        return {"ended": vector.ended, "envs": [env_state(vector.env)]}
    if isinstance(vector, SyncVectorEnv):
        states = [env_state(env) for env in vector.envs]
        return {"ended": to_plain(envs_to_reset(vector)), "envs": states}
    if isinstance(vector, AsyncVectorEnv):
        return {"envs": [from_bytes(content) for content in vector.call("saved_state")]}
    if isinstance(vector, Stateful):
        return {"vector": to_plain(vector.state_dict())}
    if not f"{type(vector).__module__}.".startswith(_STATE_IN_ATTRIBUTES):
        raise NotSerializableError(type(vector).__name__)
    return {"vector": _attributes(vector)}


def load_vector_state(envs: VectorEnv[Any, Any, Any], state: dict[str, Any]) -> None:
    """Restore the state of a vector environment.

    Args:
        envs: A vector environment of the same type and size as the saved vector environment.
        state: State returned by `vector_state`.

    Raises:
        NotRestorableError: If the type of the vector environment or the number of environments
            differs, or if an environment cannot be restored.
    """
    vector: Any = envs.unwrapped
    if "envs" in state and len(state["envs"]) != envs.num_envs:
        raise NotRestorableError(
            f"{len(state['envs'])} environments were saved, but there are {envs.num_envs} now"
        )
    if isinstance(vector, (SingleVectorEnv, SyncVectorEnv)) and "ended" in state:
        members = [vector.env] if isinstance(vector, SingleVectorEnv) else vector.envs
        for env, member_state in zip(members, state["envs"], strict=True):
            load_env_state(env, member_state)
        if isinstance(vector, SingleVectorEnv):
            vector.ended = state["ended"]
        else:
            set_envs_to_reset(vector, from_plain(state["ended"]))
    elif isinstance(vector, AsyncVectorEnv) and "ended" not in state:
        contents = [to_bytes(member_state) for member_state in state["envs"]]
        failures = [failure for failure in vector.call("restore_state", contents) if failure]
        if failures:
            raise NotRestorableError(failures[0])
    elif isinstance(vector, Stateful) and "vector" in state:
        vector.load_state_dict(from_plain(state["vector"]))
    elif "vector" in state:
        _load_attributes(vector, state["vector"])
    else:
        raise NotRestorableError("the saved state belongs to another kind of vector environment")


class RestoreByReplay(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that restores an environment by repeating the actions of the episode in progress.

    The saved state consists of the seed of the last reset, the actions taken since then, and the
    last observation. If the reset had no seed, the random generator before the reset is saved
    instead. Repeating the actions must reproduce the last observation; otherwise the environment is
    not deterministic and cannot be restored.

    For an Atari environment, the emulator's state before the last reset is saved instead of the
    random generator. The emulator's current state would not suffice: it does not contain the last
    action, which sticky actions may repeat (ale-py 0.12).
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._start: Any = None
        self._actions: list[int] = []
        self._obs: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode and discard the recorded actions of the previous episode."""
        self._start = self._generator_state() if seed is None else seed
        self._actions.clear()
        self._obs, info = self.env.reset(seed=seed, options=options)
        return self._obs, info

    @property
    def _base(self) -> Any:
        return self.env.unwrapped

    def _generator_state(self) -> Any:
        if hasattr(self._base, "ale"):
            return self._base.ale.cloneState(include_rng=True).serialize()
        return copy.deepcopy(self._base.np_random)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step and record the action."""
        self._actions.append(int(action))
        self._obs, reward, terminated, truncated, info = self.env.step(action)
        return self._obs, reward, terminated, truncated, info

    def state_dict(self) -> Any:
        """Return the seed or random generator, the actions, and the last observation."""
        actions = np.array(self._actions, np.int64)
        return {"start": self._start, "actions": actions, "obs": np.asarray(self._obs)}

    def load_state_dict(self, state: Any) -> None:
        """Restore the saved episode by repeating its actions.

        Raises:
            NotRestorableError: If the repeated episode ends too early, or its last observation
                differs from the saved one.
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
                raise NotRestorableError(
                    f"{self.env} is not deterministic: the episode ended early"
                )
        if not np.array_equal(self._obs, state["obs"]):
            raise NotRestorableError(f"{self.env} is not deterministic: the observation differs")


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Yield an environment's wrappers and its base environment, outermost first.

    Iteration stops at a `RestoreByReplay` wrapper, which saves the state of everything inside it.
    """
    while True:
        yield env
        if isinstance(env, RestoreByReplay) or not isinstance(env, gym.Wrapper):
            return
        env = env.env


def _state(layer: Any) -> Any:
    if isinstance(layer, Stateful):
        return to_plain(layer.state_dict())
    if not f"{type(layer).__module__}.".startswith(_STATE_IN_ATTRIBUTES):
        raise NotSerializableError(type(layer).__name__)
    return _attributes(layer)


def _load(layer: Any, state: Any) -> None:
    if isinstance(layer, Stateful):
        layer.load_state_dict(from_plain(state))
    else:
        _load_attributes(layer, state)


def _attributes(owner: Any) -> dict[str, Any]:
    """Return the values of the attributes that may change, as tensors and plain values, by name.

    The attributes of Gymnasium's helper objects, such as the running mean in a normalization
    wrapper, are included.

    Raises:
        NotSerializableError: If a value has an unsupported type.
    """
    state = {}
    for name, value in vars(owner).items():
        if name in _CONSTANT_ATTRIBUTES or _is_constant(value):
            continue
        if _is_helper(value):
            state[name] = {"attributes": _attributes(value)}
        else:
            state[name] = {"value": to_plain(value)}
    return state


def _load_attributes(owner: Any, state: dict[str, Any]) -> None:
    """Set the attributes that `_attributes` saves; a file must not change any others."""
    for name, saved in state.items():
        current = vars(owner).get(name, getattr(type(owner), name, None))
        if name.startswith("__") or name in _CONSTANT_ATTRIBUTES or _is_constant(current):
            continue
        if "value" in saved:
            setattr(owner, name, from_plain(saved["value"]))
        elif _is_helper(current):
            _load_attributes(current, saved["attributes"])


def _is_helper(value: Any) -> bool:
    return type(value).__module__.startswith("gymnasium.wrappers.")


def _is_constant(value: Any) -> bool:
    """Return whether a value is configuration, a callable or a rendering object (not saved)."""
    configuration = (gym.Env, VectorEnv, Space, EnvSpec, ModuleType, type, property)
    is_rendering = type(value).__module__.startswith("pygame")
    return isinstance(value, configuration) or callable(value) or is_rendering
