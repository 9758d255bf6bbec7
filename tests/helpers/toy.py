"""Small environments whose observations and rewards are easy to predict."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env[Any, Any]):
    """Observes [episode, step]; episodes of odd length terminate, those of even length truncate.

    Episodes take 1 to 7 steps. The reward is the action plus a tenth of the step.

    Args:
        fail_at: Step, counted over all episodes, that raises a ZeroDivisionError.
    """

    def __init__(self, fail_at: int | None = None) -> None:
        self.observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.fail_at = fail_at
        self.steps = 0
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode += 1
        self.step_in_episode = 0
        self.length = int(self.np_random.integers(1, 8))
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == self.fail_at:
            raise ZeroDivisionError("the floor gave way")
        self.step_in_episode += 1
        over = self.step_in_episode == self.length
        truncated = over and self.length % 2 == 0
        reward = float(action) + self.step_in_episode / 10
        return self._obs(), reward, over and not truncated, truncated, {}

    def _obs(self) -> Any:
        return np.array([self.episode, self.step_in_episode], np.float32)


class Spaces(gym.Env[Any, Any]):
    """Episodes of one step; observations are sampled from any given space."""

    def __init__(self, observation_space: Any, action_space: Any = None) -> None:
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(2)
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return self.observation_space.sample(), 1.0, True, False, {}


class Endless(Walk):
    """A Walk whose episodes never end."""

    def step(self, action: Any) -> Any:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


class Chance(gym.Env[Any, Any]):
    """Observations and ends of episodes are random, drawn from the environment's own generator."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1e6, 1e6, (1,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        return self._obs(), float(action), bool(self._chance() < 0.1), False, {}

    def _obs(self) -> Any:
        return np.array([self._chance()], np.float32)

    def _chance(self) -> float:
        return float(self.np_random.random())


class Fickle(Chance):
    """Observations depend on the clock, so an episode cannot be repeated."""

    def _chance(self) -> float:
        return time.perf_counter() % 1 + 1


class Faulty(Walk):
    """A Walk that does something wrong.

    Args:
        fault: What it does, one of `FAULTS`.
        at: Step, counted over all episodes, in which it does it; 0 for the first reset.
    """

    def __init__(self, fault: str, at: int = 5) -> None:
        super().__init__()
        self.fault, self.at = fault, at
        self.num_resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        obs, info = super().reset(seed=seed)
        self.num_resets += 1
        if self.at == 0 and self.num_resets == 1:
            obs = FAULTS[self.fault]([obs])[0]
        return obs, info

    def step(self, action: Any) -> Any:
        values = list(super().step(action))
        return FAULTS[self.fault](values) if self.steps == self.at else values


def replace(index: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    """Return a function that replaces one of the values that `step` returns."""
    return lambda values: [*values[:index], value, *values[index + 1 :]]


def calling(function: Callable[..., Any], *arguments: Any) -> Callable[[list[Any]], list[Any]]:
    """Return a function that calls another one, and returns the values that `step` returns."""

    def call(values: list[Any]) -> list[Any]:
        function(*arguments)
        return values

    return call


def segmentation_fault() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # instead of pytest's, which prints tracebacks
    os.kill(os.getpid(), signal.SIGSEGV)


FAULTS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "shape": replace(0, np.zeros(1, np.float32)),
    "text": replace(0, np.array(["1", "2"])),
    "nan obs": replace(0, np.array([0, np.nan], np.float32)),
    "infinite obs": replace(0, np.array([np.inf, -np.inf], np.float32)),
    "nan reward": replace(1, float("nan")),
    "infinite reward": replace(1, np.float64("-inf")),
    "text reward": replace(1, "1.0"),
    "text terminated": replace(2, "False"),
    "number truncated": replace(3, 0),
    "os.chdir": calling(os.chdir, "/"),
    "sys.exit": calling(sys.exit, 3),
    "os._exit": calling(os._exit, 3),
    "segmentation fault": calling(segmentation_fault),
    "hang": calling(time.sleep, 1_000),
    "hang in C": calling(lambda: ctypes.PyDLL(None).sleep(1_000)),  # does not release the GIL
}


class Images(Spaces):
    """Image observations of noise; the environment cannot render."""

    def __init__(self, dtype: str = "uint8") -> None:
        super().__init__(spaces.Box(0, 255, (40, 90, 3), np.uint8))
        self.dtype = dtype

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        obs, info = super().reset(seed=seed)
        return obs.astype(self.dtype), info


class Drawn(Walk):
    """Episodes of 9 steps at 5 frames per second; the brightness of images is 20 times the step."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observed = super().reset(seed=seed)
        self.length = 9
        return observed

    def render(self) -> Any:
        return np.full((20, 30, 3), 20 * self.step_in_episode, np.uint8)


class Elsewhere(Walk):
    """A Walk that changes the working directory when it is created."""

    def __init__(self) -> None:
        super().__init__()
        os.chdir("/")


class Slow(Walk):
    """A Walk that takes a second to construct."""

    def __init__(self) -> None:
        time.sleep(1.0)
        super().__init__()


def register() -> None:
    """Register these environments with Gymnasium, unless they are registered already."""
    if "toy/Walk-v0" not in gym.registry:
        gym.register("toy/Walk-v0", Walk)
        gym.register("toy/Spaces-v0", Spaces)
        gym.register("toy/Endless-v0", Endless)
        gym.register("toy/Chance-v0", Chance)
        gym.register("toy/Fickle-v0", Fickle)
        gym.register("toy/Faulty-v0", Faulty)
        gym.register("toy/Images-v0", Images)
        gym.register("toy/Elsewhere-v0", Elsewhere)
        gym.register("toy/Slow-v0", Slow)
        gym.register("toy/Drawn-v0", Drawn)


register()
