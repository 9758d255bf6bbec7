"""Evaluate a policy on whole episodes, without side effects on training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from dqn_lightning import distributed
from dqn_lightning.errors import ConfigError, EnvironmentFailure
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.types import Episode, Policy


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings for evaluations during training and for tests (`data.evaluation`).

    Evaluations and tests use their own environments and seeds, and do not affect training. Numbers
    of environment steps and episodes are totals over all ranks.

    Args:
        every_env_steps: Environment steps between evaluations; null for no evaluations.
        episodes: Number of episodes per evaluation.
        epsilon: Probability of a random action in evaluations and tests.
        seed: Seed for the first evaluation environment; environment i is seeded with `seed` + i.
        env_kwargs: Keyword arguments for `gymnasium.make` that extend or override those used for
            training.
        wrappers: Wrappers applied to each environment, innermost first; null for the wrappers used
            in training.
        test_episodes: Number of episodes per test.
        test_seed: Seed for the first test environment; environment i is seeded with
            `test_seed` + i.

    Raises:
        ConfigError: If a number is out of range.
    """

    every_env_steps: int | None = 5_000
    episodes: int = 20
    epsilon: float = 0.0
    seed: int = 1_000_000
    env_kwargs: dict[str, Any] | None = None
    wrappers: list[Callable[[gym.Env], gym.Env]] | None = None
    test_episodes: int = 100
    test_seed: int = 2_000_000

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name in ("every_env_steps", "episodes", "test_episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.evaluation.{name}: must be at least 1, got {value}")
        for name in ("seed", "test_seed"):
            value = getattr(self, name)
            if value < 0:
                raise ConfigError(f"data.evaluation.{name}: must not be negative, got {value}")
        if not 0 <= self.epsilon <= 1:
            raise ConfigError(f"data.evaluation.epsilon: must be in [0, 1], got {self.epsilon}")


class Evaluation:
    """Callable that runs a fixed number of episodes with a policy.

    An evaluation has its own environments and random generators, and every call starts from the
    same seeds. Each environment plays an equal share of the episodes, so short episodes are not
    overrepresented. Ranks divide the environments among themselves and gather the episodes. The
    episodes do not depend on the number of ranks, unless a vectorized environment uses one random
    generator for all of its environments.

    An evaluation is passed to Lightning as a batch. It is deliberately not iterable, because
    Lightning iterates over a batch to infer its size.

    Args:
        make_collector: Function that returns a collector for the given number of environments. The
            collector must be reserved for evaluations. Its replay only needs to hold the newest
            frames, for frame stacking. The function is called at the start of each evaluation.
        num_envs: Number of environments over all ranks.
        episodes: Number of episodes over all ranks.
        seed: Seed for the first environment; environment i is seeded with `seed + i`.
        stopped: Function that returns whether to stop immediately; called before each step.

    Attributes:
        on_step: Function called with this rank's collector after each step of its environments.
    """

    def __init__(
        self,
        make_collector: Callable[[int], Collector],
        *,
        num_envs: int,
        episodes: int,
        seed: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.num_envs = num_envs
        self.episodes = episodes
        self.seed = seed
        self.on_step: Callable[[Collector], None] = lambda _: None
        self._make_collector = make_collector
        self._stopped = stopped

    def __call__(self, policy: Policy) -> list[Episode]:
        """Run this rank's share of the episodes and gather the episodes of all ranks.

        Args:
            policy: Greedy policy: maps observations [N, …] to actions [N].

        Returns:
            The episodes sorted by environment; fewer than `episodes` if the evaluation was stopped.

        Raises:
            EnvironmentFailure: If an environment raised an exception.
        """
        rank, world_size = distributed.rank(), distributed.world_size()
        env_indices = np.array_split(range(self.num_envs), world_size)[rank]
        of_this_rank = []
        if len(env_indices):
            of_this_rank = self._play_share(policy, int(env_indices[0]), len(env_indices))
        played = [
            Episode(*episode)
            for of_one_rank in distributed.all_gather(of_this_rank)
            for episode in of_one_rank
        ]
        return sorted(played, key=lambda episode: episode.env)

    def _play_share(self, policy: Policy, first_env: int, num_envs: int) -> list[tuple[Any, ...]]:
        """Run the episodes of environments `first_env` to `first_env + num_envs - 1`.

        Returns:
            The finished episodes, each as a plain tuple with the fields of `Episode`.
        """
        collector = self._make_collector(num_envs)
        collector.actor.rng = np.random.default_rng(self.seed + first_env)
        collector.reset(self.seed + first_env)
        share, rest = divmod(self.episodes, self.num_envs)
        num_left = [share + (first_env + i < rest) for i in range(num_envs)]
        played: list[tuple[Any, ...]] = []
        while any(num_left) and not self._stopped():
            for episode in self._step(collector, policy):
                if num_left[episode.env] > 0:
                    num_left[episode.env] -= 1
                    played.append(tuple(episode._replace(env=first_env + episode.env)))
        return played

    def _step(self, collector: Collector, policy: Policy) -> list[Episode]:
        try:
            episodes = collector.step(policy)
        except EnvironmentFailure as error:
            raise EnvironmentFailure(f"during an evaluation: {error}") from error.__cause__
        self.on_step(collector)
        return episodes


class EvaluationResult(NamedTuple):
    """Aggregate statistics of an evaluation.

    Attributes:
        episodes: Number of episodes.
        return_mean: Mean of the undiscounted returns.
        return_std: Population standard deviation of the returns.
        return_min: Smallest return.
        return_max: Largest return.
        length_mean: Mean of the episode lengths in environment steps.
    """

    episodes: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    length_mean: float
