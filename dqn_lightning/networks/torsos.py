"""Torsos: observations → features."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from dqn_lightning.networks.layers import Initialization, linear


class MLP(nn.Module):
    """Linear layers, each followed by an activation; the observation is flattened first.

    Args:
        obs_shape: Shape of an observation, without the batch.
        widths: Width of each layer; the last is the number of features. Empty for none.
        activation: Makes the activation between layers.
        initialization: Fills each weight in place; PyTorch's default if None.

    Raises:
        ValueError: If a width is not positive.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        widths: Sequence[int] = (256, 256),
        activation: Callable[[], nn.Module] = nn.ReLU,
        initialization: Initialization | None = None,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in widths):
            raise ValueError(f"MLP: every one of widths must be at least 1, got {list(widths)}")
        self.flattens = len(obs_shape) > 1
        sizes = [prod(obs_shape), *widths]
        self.layers = nn.ModuleList(
            linear(ins, outs, initialization) for ins, outs in pairwise(sizes)
        )
        self.activation = activation()

    def forward(self, obs: Tensor) -> Tensor:
        """Observations [B, …] → features [B, D]."""
        features = obs.flatten(1) if self.flattens else obs
        for layer in self.layers:
            features = self.activation(layer(features))
        return features
