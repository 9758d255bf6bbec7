"""The whole network: observation layer, torso, head."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.networks.heads import ValueHead
from dqn_lightning.networks.layers import Observation
from dqn_lightning.networks.torsos import CNN, MLP, FrameDifference, TorsoFactory

_SAME_IN_BOTH_MODES = (
    CNN,
    FrameDifference,
    MLP,
    ValueHead,
    nn.Conv2d,
    nn.Flatten,
    nn.Identity,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
    nn.ReLU,
    nn.Sequential,
    nn.SiLU,
    nn.Tanh,
)
"""Layers that compute the same in training and evaluation; any other might not."""

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
        ValueError: If the torso cannot take the observations, or makes no features of rank 2.
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
        self.list_layers()

    def list_layers(self) -> None:
        """See anew which layers `switch` must switch, after some were exchanged."""
        same = {Observation, QNetwork, *_SAME_IN_BOTH_MODES}  # themselves, not what inherits
        self._mode_dependent = [m for m in self.modules() if type(m) not in same]

    def forward(self, obs: Tensor) -> Any:
        """Observations [B, …] → what the head makes of them, always with `q_values` [B, A]."""
        return self.head(self.torso(self.observation(obs)))

    def switch(self, training: bool) -> None:
        """`train()` or `eval()` for those layers only that may tell the two apart.

        Acting and learning alternate, and walking through all layers twice per update takes as
        long as acting once.
        """
        for layer in self._mode_dependent:
            if layer.training != training:
                layer.training = training


def _num_features(torso: nn.Module, obs_shape: Sequence[int]) -> int:
    training = torso.training
    try:
        with torch.no_grad():  # in eval mode, or layers with statistics would learn from zeros
            features = torso.eval()(torch.zeros(1, *obs_shape))
    except RuntimeError as error:
        raise ValueError(
            f"model.network: {type(torso).__name__} cannot take observations of shape "
            f"{list(obs_shape)}: {error}"
        ) from error
    torso.train(training)
    if features.ndim != 2:
        raise ValueError(
            f"model.network: a network must make features [batch, number], "
            f"{type(torso).__name__} makes {list(features.shape)}; end it with nn.Flatten()"
        )
    return int(features.shape[1])
