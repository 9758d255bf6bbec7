"""States that a policy visits, as single ones to look at.

(`health.VisitedStates` keeps whole vector steps, with the returns that followed.)
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dqn_lightning.collector import Collector
from dqn_lightning.types import Act


class Visit(NamedTuple):
    """A state as a policy came to it.

    Attributes:
        episode: Number of the episode, from 0.
        step: Environment steps since its start.
        obs: The observation […], as it is stored.
    """

    episode: int
    step: int
    obs: Tensor


def play_visits(collector: Collector, act: Act, episodes: int, seed: int) -> Iterator[Visit]:
    """Play whole episodes, side by side; gives every state in which the policy acts.

    The environments are stepped as states are asked for.

    Args:
        collector: Of an evaluation, as `DQNDataModule.eval_collector` makes it.
        act: Chooses the actions.
        episodes: How many are played, as many at the same time as there are environments.
        seed: Episode i is that of `seed + i`, unless a vector version of the environment draws all
            from one generator.

    Raises:
        EnvironmentFailure: If an environment raised.
    """
    collector.actor.rng = np.random.default_rng(seed)
    num_envs = collector.envs.num_envs
    for first in range(0, episodes, num_envs):
        collector.reset(seed + first)
        playing = list(range(min(num_envs, episodes - first)))
        step = 0
        while playing:
            obs = torch.as_tensor(collector.replay.current_obs())
            for env in playing:  # a copy of each: a view would keep those of all
                yield Visit(first + env, step, obs[env].clone())
            ended = {episode.env for episode in collector.step(act)}
            playing = [env for env in playing if env not in ended]
            step += 1


def sample_visits(visits: Iterable[Visit], number: int, rng: np.random.Generator) -> list[Visit]:
    """So many of all visits, each with the same chance, in the order of episodes and steps.

    It holds no more than these, however many there are (Vitter 1985, algorithm R).
    """
    sampled: list[Visit] = []
    for seen, visit in enumerate(visits):
        if seen < number:
            sampled.append(visit)
        elif (place := rng.integers(seen + 1)) < number:
            sampled[place] = visit
    return sorted(sampled, key=lambda visit: (visit.episode, visit.step))
