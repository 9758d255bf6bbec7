"""Plays whole episodes and disturbs nothing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dqn_lightning.collector import Collector
from dqn_lightning.errors import EnvironmentFailure
from dqn_lightning.types import Act, Episode


class Evaluation:
    """Plays a number of episodes with a policy; call it, it is no iterable.

    It has environments and random numbers of its own, and starts from the same seeds every time it
    is called. Each environment plays its share of the episodes, so that short ones are not
    preferred.

    Args:
        make_collector: Gives a collector nobody else uses, made when it is first needed. Its replay
            holds the newest frames only, for the stack of observations.
        episodes: Episodes to play.
        seed: Environment i starts with `seed + i`.
        stopped: Whether to stop at once.

    Attributes:
        on_end: Called when all episodes have been played.
    """

    def __init__(
        self,
        make_collector: Callable[[], Collector],
        *,
        episodes: int,
        seed: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.episodes = episodes
        self.seed = seed
        self.on_end: Callable[[], None] = lambda: None
        self._make_collector = make_collector
        self._stopped = stopped

    def __call__(self, act: Act) -> list[Episode]:
        """Play; gives the episodes in the order in which they ended, fewer if it was stopped.

        Raises:
            EnvironmentFailure: If an environment raised.
        """
        collector = self._make_collector()
        collector.actor.rng = np.random.default_rng(self.seed)
        collector.reset(self.seed)
        share, rest = divmod(self.episodes, collector.envs.num_envs)
        left = [share + (i < rest) for i in range(collector.envs.num_envs)]
        played: list[Episode] = []
        while len(played) < self.episodes and not self._stopped():
            for episode in self._step(collector, act):
                if left[episode.env] > 0:
                    left[episode.env] -= 1
                    played.append(episode)
        if len(played) == self.episodes:
            self.on_end()
        return played

    def _step(self, collector: Collector, act: Act) -> list[Episode]:
        try:
            return collector.step(act)
        except EnvironmentFailure as error:
            raise EnvironmentFailure(f"in an evaluation: {error}") from error.__cause__


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
