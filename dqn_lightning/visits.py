"""States that a policy visits."""

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


def visits(collector: Collector, act: Act, seed: int) -> Iterator[Visit]:
    """Play an episode in each environment, side by side; gives every state in which they act.

    The environments are stepped as states are asked for.

    Args:
        collector: Of an evaluation, as `DQNDataModule.eval_collector` makes it.
        act: Chooses the actions.
        seed: Environment i starts with `seed + i`.

    Raises:
        EnvironmentFailure: If an environment raised.
    """
    collector.actor.rng = np.random.default_rng(seed)
    collector.reset(seed)
    playing = list(range(collector.envs.num_envs))
    step = 0
    while playing:
        obs = torch.as_tensor(collector.replay.current_obs()).clone()
        for env in playing:
            yield Visit(env, step, obs[env])
        ended = {episode.env for episode in collector.step(act)}
        playing = [env for env in playing if env not in ended]
        step += 1


def draw_visits(visits: Iterable[Visit], number: int, rng: np.random.Generator) -> list[Visit]:
    """So many of all visits, each with the same chance, in the order of episodes and steps.

    It holds no more than these, however many there are (Vitter 1985, algorithm R).
    """
    drawn: list[Visit] = []
    for seen, visit in enumerate(visits):
        if seen < number:
            drawn.append(visit)
        elif (place := rng.integers(seen + 1)) < number:
            drawn[place] = visit
    return sorted(drawn, key=lambda visit: (visit.episode, visit.step))
