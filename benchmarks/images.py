"""An environment whose observations cost nothing, to measure everything around it."""

from typing import Any

import gymnasium as gym
import numpy as np


class Images(gym.Env[Any, Any]):
    """Grayscale noise images of 84 x 84; an episode has 1 000 steps."""

    observation_space = gym.spaces.Box(0, 255, (1, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def __init__(self) -> None:
        self._images = np.random.default_rng(0).integers(0, 256, (64, 1, 84, 84), np.uint8)
        self._step = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self._images[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        image = self._images[self._step % len(self._images)]
        return image, float(action), False, self._step == 1_000, {}


gym.register("Images-v0", Images)
