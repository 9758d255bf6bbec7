"""Epsilon-greedy action selection and its settings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqn_lightning.checkpointing.serialization import from_plain, to_plain
from dqn_lightning.errors import ConfigError
from dqn_lightning.schedules import CHECKED_COUNTS, Schedule, as_schedule
from dqn_lightning.types import Observations, Policy


@dataclass(frozen=True)
class ExplorationSettings:
    """Settings for epsilon-greedy exploration during training (`data.exploration`).

    Args:
        epsilon: Probability of a random action: a number, or a schedule over environment steps.
        ladder: Whether each environment has its own probability (Horgan et al. 2018, Ape-X): with N
            environments over all ranks, environment i takes a random action with probability
            epsilon^(1 + 7 i / (N - 1)).

    Raises:
        ConfigError: If `epsilon` is outside [0, 1]. A schedule is checked at environment step 0 and
            at powers of 10.
    """

    epsilon: float | Schedule = 0.1
    ladder: bool = False

    def __post_init__(self) -> None:
        """Validate epsilon."""
        epsilon = as_schedule(self.epsilon)
        for count in CHECKED_COUNTS:
            if not 0 <= (value := epsilon(count)) <= 1:
                raise ConfigError(
                    f"data.exploration.epsilon: must be in [0, 1], is {value} at environment step "
                    f"{count}"
                )


class EpsilonGreedy:
    """Epsilon-greedy actor: a random action with probability epsilon, otherwise the greedy action.

    The choice is made independently for each environment. The policy is not evaluated if the
    actions of all environments are random.

    Args:
        epsilon: Probability of a random action, as a function of environment steps.
        num_actions: Number of actions A.
        rng: Random generator for the choices and the random actions.
        exponents: Exponents [N] applied to epsilon, one per environment, as returned by `ladder`;
            all 1 if None.
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
        """Return the state of the random generator."""
        return {"rng": to_plain(self.rng)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the random generator."""
        self.rng = from_plain(state["rng"])

    def __call__(self, act: Policy, obs: Observations, env_steps: int) -> NDArray[np.int64]:
        """Return actions [N], one per environment.

        Args:
            act: Greedy policy: maps observations [N, …] to actions [N].
            obs: Observations [N, …].
            env_steps: Environment steps of the run so far.
        """
        num_envs = len(obs)
        epsilon: float | NDArray[np.float64] = self.epsilon(env_steps)
        if self.exponents is not None:
            epsilon = epsilon**self.exponents
        if num_envs == 1:  # fast path; consumes the same random numbers
            explore_one = self.rng.random() < epsilon
            return self.rng.integers(self.num_actions, size=1) if explore_one else act(obs)
        explore = self.rng.random(num_envs) < epsilon
        num_explorers = np.count_nonzero(explore)
        if num_explorers == 0:
            return act(obs)
        random_actions = self.rng.integers(self.num_actions, size=num_envs)
        if num_explorers == num_envs:
            return random_actions
        return np.where(explore, random_actions, act(obs))


def ladder(num_envs: int) -> NDArray[np.float64]:
    """Return exponents [N] for epsilon: 1 + 7 i / (N - 1) for environments i = 0 … N - 1.

    The exponents vary the amount of exploration between environments (Horgan et al. 2018, Ape-X).
    With epsilon 0.4, the first environment explores in 40 % of its steps, the last in 0.07 %.

    >>> ladder(3)
    array([1. , 4.5, 8. ])
    """
    return np.linspace(1.0, 8.0, num_envs)
