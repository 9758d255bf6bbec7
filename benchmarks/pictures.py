"""An environment whose pictures cost nothing, to measure what lies around it."""

from typing import Any

import gymnasium as gym
import numpy as np


class Pictures(gym.Env[Any, Any]):
    """Grey pictures of 84 x 84 noise; an episode is 1 000 steps."""

    observation_space = gym.spaces.Box(0, 255, (1, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def __init__(self) -> None:
        self._pictures = np.random.default_rng(0).integers(0, 256, (64, 1, 84, 84), np.uint8)
        self._step = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self._pictures[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        picture = self._pictures[self._step % len(self._pictures)]
        return picture, float(action), False, self._step == 1_000, {}


gym.register("Pictures-v0", Pictures)
