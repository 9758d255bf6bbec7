"""The whole network: observation layer, torso, head."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.networks.layers import Observation

TorsoFactory: TypeAlias = Callable[[Sequence[int]], nn.Module]
"""Shape of an observation → module that makes features [B, D] of observations [B, …]."""

HeadFactory: TypeAlias = Callable[[int, int], nn.Module]
"""Number of features, number of actions → module whose output has `q_values` [B, A]."""


class QNetwork(nn.Module):
    """Observations → action values.

    Args:
        obs_shape: Shape of an observation, stack included.
        num_actions: Number of actions A.
        torso: Makes the torso; its number of features is found by trying it on zeros.
        head: Makes the head.
        obs_classes: Number of classes of each element of a discrete observation, else None.

    Raises:
        ValueError: If the torso does not make features of rank 2.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_actions: int,
        torso: TorsoFactory,
        head: HeadFactory,
        obs_classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.observation = Observation(obs_shape, obs_classes)
        self.torso = torso(self.observation.out_shape)
        self.head = head(_num_features(self.torso, self.observation.out_shape), num_actions)

    def forward(self, obs: Tensor) -> Any:
        """Observations [B, …] → what the head makes of them, always with `q_values` [B, A]."""
        return self.head(self.torso(self.observation(obs)))


def _num_features(torso: nn.Module, obs_shape: Sequence[int]) -> int:
    training = torso.training
    with torch.no_grad():  # in eval mode, or layers with statistics would learn from zeros
        features = torso.eval()(torch.zeros(1, *obs_shape))
    torso.train(training)
    if features.ndim != 2:
        raise ValueError(
            f"a network must make features [batch, number], "
            f"{type(torso).__name__} makes {list(features.shape)}; end it with nn.Flatten()"
        )
    return int(features.shape[1])
