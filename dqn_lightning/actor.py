"""Observations → actions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqn_lightning.plain import plain, restored
from dqn_lightning.schedules import Schedule
from dqn_lightning.types import Act, Observations


class EpsilonGreedy:
    """A random action with probability epsilon, else the greedy one.

    Every environment flips its own coin. The network is not asked where all of them explore.

    Args:
        epsilon: Probability as a function of environment steps.
        num_actions: Number of actions A.
        rng: Source of the coins and of the random actions.
        exponents: Power of epsilon in each environment [N], as of `ladder`; 1 if None.
    """

    def __init__(
        self,
        epsilon: Schedule,
        num_actions: int,
        rng: np.random.Generator,
        exponents: NDArray[np.float64] | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.num_actions = num_actions
        self.rng = rng
        self.exponents = exponents

    def state_dict(self) -> dict[str, Any]:
        """The generator's state."""
        return {"rng": plain(self.rng)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rng = restored(state["rng"])

    def __call__(self, act: Act, obs: Observations, env_steps: int) -> NDArray[np.int64]:
        """Actions [N] for observations [N, …] after so many environment steps."""
        num_envs = len(obs)
        epsilon: float | NDArray[np.float64] = self.epsilon(env_steps)
        if self.exponents is not None:
            epsilon = epsilon**self.exponents
        if num_envs == 1:  # by the same numbers, and sooner
            coin = self.rng.random()
            return self.rng.integers(self.num_actions, size=1) if coin < epsilon else act(obs)
        explore = self.rng.random(num_envs) < epsilon
        num_explorers = np.count_nonzero(explore)
        if num_explorers == 0:
            return act(obs)
        random_actions = self.rng.integers(self.num_actions, size=num_envs)
        if num_explorers == num_envs:
            return random_actions
        return np.where(explore, random_actions, act(obs))


def ladder(num_envs: int) -> NDArray[np.float64]:
    """Exponents 1 + 7 i / (N - 1) of environments i = 0 … N - 1 (Horgan et al. 2018, Ape-X).

    With epsilon 0.4 the first explores in 40 % of its steps, the last in 0.07 %.

    >>> ladder(3)
    array([1. , 4.5, 8. ])
    """
    return np.linspace(1.0, 8.0, num_envs)
