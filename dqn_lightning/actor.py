"""Observations → actions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning.plain import plain, restored
from dqn_lightning.schedules import Schedule
from dqn_lightning.types import Act


class EpsilonGreedy:
    """A random action with probability epsilon, else the greedy one.

    Every environment flips its own coin. The network is not asked where all of them explore.

    Args:
        epsilon: Probability as a function of environment steps.
        num_actions: Number of actions A.
        rng: Source of the coins and of the random actions.
    """

    def __init__(self, epsilon: Schedule, num_actions: int, rng: np.random.Generator) -> None:
        self.epsilon = epsilon
        self.num_actions = num_actions
        self.rng = rng

    def state_dict(self) -> dict[str, Any]:
        """The generator's state."""
        return {"rng": plain(self.rng)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rng = restored(state["rng"])

    def __call__(self, act: Act, obs: Tensor, env_steps: int) -> NDArray[np.int64]:
        """Actions [N] for observations [N, …] after so many environment steps."""
        num_envs = obs.shape[0]
        explore = self.rng.random(num_envs) < self.epsilon(env_steps)
        num_explorers = np.count_nonzero(explore)
        if num_explorers == 0:
            return act(obs).numpy(force=True)
        random_actions = self.rng.integers(self.num_actions, size=num_envs)
        if num_explorers == num_envs:
            return random_actions
        return np.where(explore, random_actions, act(obs).numpy(force=True))
