"""Plays whole episodes and disturbs nothing."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from dqn_lightning.actor import EpsilonGreedy
from dqn_lightning.collector import Collector
from dqn_lightning.replay import ReplayBuffer
from dqn_lightning.schedules import Constant
from dqn_lightning.types import Act, Episode


class Evaluation:
    """Plays a number of episodes with a policy; call it, it is no iterable.

    It has environments and random numbers of its own, and starts from the same seeds every time it
    is called. Each environment plays its share of the episodes, so that short ones are not
    preferred.

    Args:
        envs: A vector environment nobody else uses, of at most as many environments as episodes.
        replay: Holds the newest frames only, for the stack of observations.
        episodes: Episodes to play.
        seed: Environment i starts with `seed + i`.
        epsilon: Probability of a random action.
        num_actions: Number of actions A.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        replay: ReplayBuffer,
        *,
        episodes: int,
        seed: int,
        epsilon: float,
        num_actions: int,
    ) -> None:
        self.episodes = episodes
        self.seed = seed
        rng = np.random.default_rng(seed)
        self._actor = EpsilonGreedy(Constant(epsilon), num_actions, rng)
        self._collector = Collector(envs, replay, self._actor)
        share, rest = divmod(episodes, envs.num_envs)
        self._shares = [share + (i < rest) for i in range(envs.num_envs)]

    def __call__(self, act: Act) -> list[Episode]:
        """Play; gives the episodes in the order in which they ended."""
        self._actor.rng = np.random.default_rng(self.seed)
        self._collector.reset(self.seed)
        played: list[Episode] = []
        number = Counter[int]()
        while len(played) < self.episodes:
            for episode in self._collector.step(act):
                if number[episode.env] < self._shares[episode.env]:
                    number[episode.env] += 1
                    played.append(episode)
        return played


class Summary(NamedTuple):
    """What an evaluation came to."""

    episodes: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    length_mean: float


def summarize(episodes: Sequence[Episode]) -> Summary:
    """Mean, standard deviation (of the population), least and greatest return; mean length."""
    returns = np.array([episode.episode_return for episode in episodes])
    lengths = np.array([episode.duration for episode in episodes])
    return Summary(
        len(episodes),
        float(returns.mean()),
        float(returns.std()),
        float(returns.min()),
        float(returns.max()),
        float(lengths.mean()),
    )
