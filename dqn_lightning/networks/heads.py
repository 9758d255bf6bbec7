"""Heads: features → action values, or distributions of the return."""

import math

import torch
from torch import Tensor, nn

from dqn_lightning.networks.layers import Initialization, linear
from dqn_lightning.types import Categorical, Quantiles, QValues


class ActionStreams(nn.Module):
    """K numbers for each action, in one stream or as a dueling network.

    A dueling network (Wang et al. 2016, eq. 9) has a stream for the value of the state and one for
    the advantages of the actions: V + A - mean over actions of A.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        num_outputs: Numbers for each action K.
        dueling: Whether there are two streams.
        width: Width of a hidden layer that each stream begins with. If None, half the features of a
            dueling network, for two linear streams can say no more than one; else there is none.
        initialization: Fills the weights of the last layers; PyTorch's default if None.
    """

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        num_outputs: int = 1,
        dueling: bool = False,
        width: int | None = None,
        initialization: Initialization | None = None,
    ) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        if dueling and width is None:
            width = max(1, in_features // 2)

        def stream(outputs: int) -> nn.Module:
            if width is None:
                return linear(in_features, outputs, initialization)
            last = linear(width, outputs, initialization)
            return nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), last)

        self.actions = stream(num_actions * num_outputs)
        self.state = stream(num_outputs) if dueling else None

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, …, D] → [B, …, A, K]."""
        outputs: Tensor = self.actions(features).unflatten(-1, (-1, self.num_outputs))
        if self.state is None:
            return outputs
        state: Tensor = self.state(features).unsqueeze(-2)  # [B, …, 1, K]
        return dueling(state, outputs)


class ValueHead(nn.Module):
    """A value per action.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        dueling: Whether as a dueling network (Wang et al. 2016).
        stream_width: Width of a hidden layer before the values; see `ActionStreams`.
        initialization: Fills the last weight in place; PyTorch's default if None.
    """

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        dueling: bool = False,
        stream_width: int | None = None,
        initialization: Initialization | None = None,
    ) -> None:
        super().__init__()
        self.values = ActionStreams(
            in_features, num_actions, 1, dueling, stream_width, initialization
        )

    def forward(self, features: Tensor) -> QValues:
        """Features [B, D] → action values [B, A]."""
        return QValues(self.values(features).squeeze(-1))


class CategoricalHead(nn.Module):
    """Probabilities of K returns per action (C51, Bellemare, Dabney and Munos 2017).

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        num_atoms: Number of returns K.
        v_min: The least of them.
        v_max: The greatest; the others lie between in equal steps.
        dueling: Whether the logits are those of a dueling network, as in Hessel et al. 2018.
        stream_width: Width of a hidden layer before the logits; see `ActionStreams`.

    Raises:
        ValueError: If there are fewer than two returns.
    """

    atoms: Tensor

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        num_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        dueling: bool = False,
        stream_width: int | None = None,
    ) -> None:
        super().__init__()
        if num_atoms < 2 or v_min >= v_max:
            raise ValueError(
                f"C51 needs num_atoms of at least 2 and v_min < v_max, got {num_atoms} from "
                f"{v_min} to {v_max}"
            )
        self.logits = ActionStreams(in_features, num_actions, num_atoms, dueling, stream_width)
        self.register_buffer("atoms", torch.linspace(v_min, v_max, num_atoms), persistent=False)

    def forward(self, features: Tensor) -> Categorical:
        """Features [B, D] → logits [B, A, K] and their means."""
        logits: Tensor = self.logits(features)
        means = (logits.softmax(-1, dtype=self.atoms.dtype) * self.atoms).sum(-1)
        return Categorical(means, logits, self.atoms)


class QuantileHead(nn.Module):
    """K quantiles of the return per action (QR-DQN, Dabney et al. 2018a).

    Quantile i is that at (i + 1/2) / K.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        num_quantiles: Number of quantiles K.
        dueling: Whether each quantile is that of a dueling network.
        stream_width: Width of a hidden layer before the quantiles; see `ActionStreams`.
    """

    fractions: Tensor

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        num_quantiles: int = 200,
        dueling: bool = False,
        stream_width: int | None = None,
    ) -> None:
        super().__init__()
        self.quantiles = ActionStreams(
            in_features, num_actions, num_quantiles, dueling, stream_width
        )
        self.register_buffer("fractions", midpoints(num_quantiles), persistent=False)

    def forward(self, features: Tensor) -> Quantiles:
        """Features [B, D] → quantiles [B, A, K] and their means."""
        quantiles: Tensor = self.quantiles(features)
        return Quantiles(quantiles.mean(-1), quantiles, self.fractions)


class ImplicitQuantileHead(nn.Module):
    """Quantiles of the return per action at any fractions (IQN, Dabney et al. 2018b).

    Each fraction t is embedded as relu(W cos(pi i t) + b), i = 0 … `num_cosines` - 1, and
    multiplied with the features (eq. 4). Where no fractions are given, to act, they are the K
    midpoints (i + 1/2) / K: the paper draws them, but the mean is what is looked for.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        num_fractions: Fractions drawn for an update.
        num_acting_fractions: Fractions that an action is chosen by.
        num_cosines: Cosines of the embedding.
        dueling: Whether each quantile is that of a dueling network.
        stream_width: Width of a hidden layer before the quantiles; see `ActionStreams`.
    """

    fractions: Tensor
    frequencies: Tensor

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        num_fractions: int = 8,
        num_acting_fractions: int = 32,
        num_cosines: int = 64,
        dueling: bool = False,
        stream_width: int | None = None,
    ) -> None:
        super().__init__()
        self.num_fractions = num_fractions
        self.embedding = nn.Linear(num_cosines, in_features)
        self.quantiles = ActionStreams(in_features, num_actions, 1, dueling, stream_width)
        frequencies = math.pi * torch.arange(num_cosines)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("fractions", midpoints(num_acting_fractions), persistent=False)

    def forward(self, features: Tensor, fractions: Tensor | None = None) -> Quantiles:
        """Features [B, D], fractions [B, K] → quantiles [B, A, K] and their means."""
        if fractions is None:
            fractions = self.fractions  # [K], embedded once for all rows
        cosines = torch.cos(fractions.reshape(-1, fractions.shape[-1], 1) * self.frequencies)
        embedded = torch.relu(self.embedding(cosines))  # [1, K, D] or [B, K, D]
        quantiles = self.quantiles(features[:, None] * embedded)[..., 0].transpose(1, 2)
        return Quantiles(quantiles.mean(-1), quantiles, fractions)


def midpoints(count: int) -> Tensor:
    """The middles of so many equal parts of [0, 1].

    >>> midpoints(2)
    tensor([0.2500, 0.7500])
    """
    return (torch.arange(count) + 0.5) / count


def dueling(value: Tensor, advantage: Tensor) -> Tensor:
    """V + A - mean over actions of A, [B, …, 1, K] and [B, …, A, K] → [B, …, A, K].

    Wang et al. 2016, eq. 9: of all splits it is the one in which advantages have the mean 0.

    >>> dueling(torch.tensor([[[5.0]]]), torch.tensor([[[1.0], [3.0]]])).flatten()
    tensor([4., 6.])
    """
    return value + (advantage - advantage.mean(-2, keepdim=True))
