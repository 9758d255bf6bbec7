"""Plays whole episodes and disturbs nothing."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dqn_lightning import ranks
from dqn_lightning.collector import Collector
from dqn_lightning.errors import EnvironmentFailure
from dqn_lightning.types import Act, Episode


class Evaluation:
    """Plays a number of episodes with a policy; call it, it is no iterable.

    It has environments and random numbers of its own, and starts from the same seeds every time it
    is called. Each environment plays its share of the episodes, so that short ones are not
    preferred. Ranks share the environments out and gather the episodes: the same ones however many
    ranks there are, unless a vector version of the environment draws all from one generator.

    Args:
        make_collector: Gives a collector of so many environments that nobody else uses, made when
            it is first needed. Its replay holds the newest frames only, for the stack of
            observations.
        num_envs: Environments of all ranks.
        episodes: Episodes to play.
        seed: Environment i starts with `seed + i`.
        stopped: Whether to stop at once.

    Attributes:
        on_end: Called when all episodes have been played.
        on_step: Called with this rank's collector after each of its steps.
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
        self.on_end: Callable[[], None] = lambda: None
        self.on_step: Callable[[Collector], None] = lambda _: None
        self._make_collector = make_collector
        self._stopped = stopped

    def __call__(self, act: Act) -> list[Episode]:
        """Play; gives the episodes in the order of their environments, fewer if it was stopped.

        Raises:
            EnvironmentFailure: If an environment raised.
        """
        numbers = np.array_split(range(self.num_envs), ranks.count())[ranks.own()]
        ours = self._play(act, int(numbers[0]), len(numbers)) if len(numbers) else []
        played = [Episode(*episode) for of_rank in ranks.gather(ours) for episode in of_rank]
        if len(played) == self.episodes:
            self.on_end()
        return sorted(played, key=lambda episode: episode.env)

    def _play(self, act: Act, first: int, num_envs: int) -> list[tuple[Any, ...]]:
        """The share of these environments, from this one on."""
        collector = self._make_collector(num_envs)
        collector.actor.rng = np.random.default_rng(self.seed + first)
        collector.reset(self.seed + first)
        share, rest = divmod(self.episodes, self.num_envs)
        left = [share + (first + i < rest) for i in range(num_envs)]
        played: list[tuple[Any, ...]] = []
        while any(left) and not self._stopped():
            for episode in self._step(collector, act):
                if left[episode.env] > 0:
                    left[episode.env] -= 1
                    played.append(tuple(episode._replace(env=first + episode.env)))
        return played

    def _step(self, collector: Collector, act: Act) -> list[Episode]:
        try:
            episodes = collector.step(act)
        except EnvironmentFailure as error:
            raise EnvironmentFailure(f"in an evaluation: {error}") from error.__cause__
        self.on_step(collector)
        return episodes


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
