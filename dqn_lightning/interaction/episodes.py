"""Play single episodes with rendered images, and collect the states visited by a policy."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.interaction.evaluation import describe_cut
from dqn_lightning.types import Observations, PlayedStep, Policy


def play_episode(
    collector: Collector, q_values: Callable[[Tensor], Tensor], seed: int, max_steps: int
) -> Iterator[PlayedStep]:
    """Play one episode greedily; yield an item for each step, and one for the final state.

    The item for the final state has no action. The environment is stepped lazily, as the iterator
    is advanced.

    Args:
        collector: Collector with one environment that renders images, as returned by
            `CollectorFactory.rendering`.
        q_values: Function that maps observations [1, …] to action values [1, A]. It is called once
            per item.
        seed: Seed for the environment.
        max_steps: Maximum length of the episode in environment steps; a longer one is cut short.

    Raises:
        ConfigError: If the environment does not render an RGB image [H, W, 3].
        EnvironmentFailure: If the environment raised an exception.
    """
    collector.reset(seed)
    values, image = _evaluate_and_render(collector, q_values)
    step = 0
    while True:
        action = int(values.argmax())
        yield PlayedStep(image, values, action, step, float(collector.returns[0]))
        finished = collector.step(partial(_constant_policy, action))
        step += 1
        values, image = _evaluate_and_render(collector, q_values)
        if finished:
            yield PlayedStep(image, values, None, step, finished[0].episode_return)
            return
        if step == max_steps:
            episode_return = float(collector.returns[0])
            yield PlayedStep(image, values, None, step, episode_return, cut_short=True)
            return


def _constant_policy(action: int, obs: Observations) -> NDArray[np.int64]:
    return np.array([action])


def _evaluate_and_render(
    collector: Collector, q_values: Callable[[Tensor], Tensor]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the action values [A] for the current observation, and the image [H, W, 3]."""
    obs = torch.as_tensor(collector.replay.current_obs())
    (image,) = cast(Any, collector.envs.render())
    if np.ndim(image) != 3 or image.shape[2] != 3:
        raise ConfigError(
            f"data.env.id: the environment must render an RGB image [H, W, 3], got {type(image)}"
        )
    return q_values(obs)[0].float().numpy(force=True), image


class VisitedState(NamedTuple):
    """State visited by a policy.

    Attributes:
        episode: Index of the episode, starting at 0.
        step: Environment steps since the start of the episode.
        obs: Observation as passed to the policy, without the batch dimension.
    """

    episode: int
    step: int
    obs: Tensor


def visit_states(
    collector: Collector, policy: Policy, episodes: int, seed: int, max_steps: int
) -> Iterator[VisitedState]:
    """Play whole episodes in parallel; yield every state in which the policy takes an action.

    The environments are stepped lazily, as the iterator is advanced. If episodes were cut short,
    their number is logged at the end.

    Args:
        collector: Evaluation collector, as returned by `DQNDataModule.eval_collector`.
        policy: Greedy policy: maps observations [N, …] to actions [N].
        episodes: Number of episodes. Each environment plays one episode at a time.
        seed: Seed of the first episode. Episode i is seeded with `seed + i`, unless a vectorized
            environment uses one random generator for all its environments.
        max_steps: Maximum length of an episode in environment steps; a longer one is cut short.

    Raises:
        EnvironmentFailure: If an environment raised an exception.
    """
    collector.actor.rng = np.random.default_rng(seed)
    num_envs = collector.envs.num_envs
    num_cut_short = 0
    for first in range(0, episodes, num_envs):
        collector.reset(seed + first)
        running = list(range(min(num_envs, episodes - first)))
        step = 0
        while running and step < max_steps:
            obs = torch.as_tensor(collector.replay.current_obs())
            for env in running:  # a view would keep the observations of all environments alive
                yield VisitedState(first + env, step, obs[env].clone())
            finished = {episode.env for episode in collector.step(policy)}
            running = [env for env in running if env not in finished]
            step += 1
        num_cut_short += len(running)
    if num_cut_short:
        rank_zero_info(f"of {episodes:,} episodes, {describe_cut(num_cut_short, max_steps)}")


def sample_states(
    states: Iterable[VisitedState], num_samples: int, rng: np.random.Generator
) -> list[VisitedState]:
    """Draw a uniform random sample of the states; return it sorted by episode and step.

    Reservoir sampling (Vitter 1985, algorithm R) keeps at most `num_samples` states in memory. If
    there are fewer states than that, all are returned.

    Args:
        states: States to sample from, without replacement.
        num_samples: Maximum number of states to return.
        rng: Random generator.
    """
    sampled: list[VisitedState] = []
    for num_seen, state in enumerate(states):
        if num_seen < num_samples:
            sampled.append(state)
        elif (replaced := rng.integers(num_seen + 1)) < num_samples:
            sampled[replaced] = state
    return sorted(sampled, key=lambda state: (state.episode, state.step))
