"""Heads: features → action values."""

from torch import Tensor, nn

from dqn_lightning.networks.layers import Initialization, linear
from dqn_lightning.types import QValues


class ValueHead(nn.Module):
    """One linear layer to a value per action.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        initialization: Fills the weight in place; PyTorch's default if None.
    """

    def __init__(
        self, in_features: int, num_actions: int, initialization: Initialization | None = None
    ) -> None:
        super().__init__()
        self.values = linear(in_features, num_actions, initialization)

    def forward(self, features: Tensor) -> QValues:
        """Features [B, D] → action values [B, A]."""
        return QValues(self.values(features))
