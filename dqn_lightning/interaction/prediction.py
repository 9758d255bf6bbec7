"""Record the observations and predicted action values of an episode."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning.interaction.evaluation import Evaluation
from dqn_lightning.types import Observations


def predict_episode(
    evaluation: Evaluation, q_values: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Play one episode greedily; return the observations, actions and action values.

    Args:
        evaluation: Evaluation with a single episode.
        q_values: Function that maps observations [1, …] to action values [1, A].

    Returns:
        A dictionary with `obs` [L, …], `action` [L] and `q_values` [L, A] for the L steps, and the
        scalars `episode_return` and `cut_short` (whether the episode was cut short by
        `data.evaluation.max_steps`).
    """
    observations: list[Tensor] = []
    values: list[Tensor] = []

    def policy(obs: Observations) -> NDArray[np.int64]:
        observations.append(torch.as_tensor(obs).clone())
        values.append(q_values(observations[-1]))
        return values[-1].argmax(dim=1).numpy(force=True)

    (episode,) = evaluation(policy)
    all_values = torch.cat(values)
    return {
        "obs": torch.cat(observations),
        "action": all_values.argmax(dim=1),
        "q_values": all_values,
        "episode_return": torch.tensor(episode.episode_return),
        "cut_short": torch.tensor(episode.cut_short),
    }
