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
        max_steps: Maximum length of an episode in environment steps. A longer episode is cut short:
            it ends there and counts with its return so far. The default equals the limit of the
            Atari protocol: 108,000 frames, of which each step takes 4.
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
    max_steps: int = 27_000
    epsilon: float = 0.0
    seed: int = 1_000_000
    env_kwargs: dict[str, Any] | None = None
    wrappers: list[Callable[[gym.Env], gym.Env]] | None = None
    test_episodes: int = 100
    test_seed: int = 2_000_000

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name in ("every_env_steps", "episodes", "max_steps", "test_episodes"):
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

    An episode that reaches `max_steps` is cut short: it ends there and counts with its return so
    far. Its environment plays its remaining episodes in another round: when each environment has
    played its share or had an episode cut short, all are reset together, with new seeds.

    An evaluation is passed to Lightning as a batch. It is deliberately not iterable, because
    Lightning iterates over a batch to infer its size.

    Args:
        make_collector: Function that returns a collector for the given number of environments. The
            collector must be reserved for evaluations. Its replay only needs to hold the newest
            frames, for frame stacking. The function is called at the start of each evaluation.
        num_envs: Number of environments over all ranks.
        episodes: Number of episodes over all ranks.
        seed: Seed for the first environment; environment i is seeded with `seed + i`.
        max_steps: Maximum length of an episode in environment steps.
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
        max_steps: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.num_envs = num_envs
        self.episodes = episodes
        self.seed = seed
        self.max_steps = max_steps
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
        seed = self.seed + first_env
        collector.reset(seed)
        share, rest = divmod(self.episodes, self.num_envs)
        num_left = [share + (first_env + i < rest) for i in range(num_envs)]
        played: list[tuple[Any, ...]] = []
        while True:
            for episode in self._play_round(collector, policy, num_left):
                num_left[episode.env] -= 1
                played.append(tuple(episode._replace(env=first_env + episode.env)))
            if not any(num_left) or self._stopped():
                return played
            seed += self.num_envs
            collector.restart_episodes(seed)
            self.on_step(collector)  # for the reset rows between the episodes

    def _play_round(
        self, collector: Collector, policy: Policy, num_left: list[int]
    ) -> list[Episode]:
        """Play until each environment has played its episodes, or had an episode cut short.

        Not all vector environments can reset a single one of their environments. After an episode
        was cut short, its environment is therefore stepped without effect until the round ends.

        Args:
            collector: Collector whose environments have just been reset.
            policy: Greedy policy.
            num_left: Number of episodes that each environment still has to play.

        Returns:
            The episodes in the order in which they ended; fewer if the evaluation was stopped.
        """
        num_left = list(num_left)
        played: list[Episode] = []
        step = 0
        while any(num_left) and not self._stopped():
            episodes = self._step(collector, policy)
            step += 1
            if step >= self.max_steps:  # no episode can be this long earlier
                episodes = [*episodes, *_cut_short(collector, self.max_steps)]
            for episode in episodes:
                if num_left[episode.env] > 0:
                    played.append(episode)
                    num_left[episode.env] -= num_left[episode.env] if episode.cut_short else 1
            if not any(num_left):  # the environments are reset next
                collector.replay.newest("truncated")[~collector.replay.pending_is_reset] = True
            self.on_step(collector)
        return played

    def _step(self, collector: Collector, policy: Policy) -> list[Episode]:
        try:
            return collector.step(policy)
        except EnvironmentFailure as error:
            raise EnvironmentFailure(f"during an evaluation: {error}") from error.__cause__


def _cut_short(collector: Collector, max_steps: int) -> list[Episode]:
    """Return the episodes in progress that have just reached `max_steps` environment steps."""
    replay = collector.replay
    reached = (replay.pending_episode_step == max_steps) & ~replay.pending_is_reset
    env_steps = collector.progress.env_steps
    return [
        Episode(int(i), max_steps, float(collector.returns[i]), env_steps, cut_short=True)
        for i in reached.nonzero()[0]
    ]


def describe_cut(num_cut_short: int, max_steps: int) -> str:
    """Return text about the episodes that were cut short, or an empty string if there are none.

    >>> describe_cut(2, 27_000)
    '2 cut short after 27,000 steps (data.evaluation.max_steps)'
    """
    if not num_cut_short:
        return ""
    return f"{num_cut_short:,} cut short after {max_steps:,} steps (data.evaluation.max_steps)"


class EvaluationResult(NamedTuple):
    """Aggregate statistics of an evaluation.

    Attributes:
        episodes: Number of episodes.
        return_mean: Mean of the undiscounted returns.
        return_std: Population standard deviation of the returns.
        return_min: Smallest return.
        return_max: Largest return.
        length_mean: Mean of the episode lengths in environment steps.
        episodes_cut_short: Number of episodes that were cut short by `data.evaluation.max_steps`;
            their lengths and their returns so far are included in the statistics.
    """

    episodes: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    length_mean: float
    episodes_cut_short: int = 0
