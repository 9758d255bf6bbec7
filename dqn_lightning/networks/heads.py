"""Heads, which compute action values or distributions of the return from features."""

import math

import torch
from torch import Tensor, nn

from dqn_lightning.errors import ConfigError
from dqn_lightning.networks.layers import Initialization, linear
from dqn_lightning.types import Categorical, Quantiles, QValues


class ActionStreams(nn.Module):
    """Module that computes K outputs per action, with a single stream or a dueling network.

    A dueling network (Wang et al. 2016) has one stream for the state value and one for the
    advantages, combined by `dueling`.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        num_outputs: Number of outputs K per action.
        dueling: Whether to use a dueling network instead of a single stream.
        width: Width of each stream's hidden layer. By default, a dueling network uses half the
            number of features, because two linear streams are no more expressive than one; a single
            stream has no hidden layer.
        initialization: Initialization for the weights of each stream's last layer; None for
            PyTorch's default.
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
        """Return the K outputs per action [B, …, A, K] for features [B, …, D]."""
        outputs: Tensor = self.actions(features).unflatten(-1, (-1, self.num_outputs))
        if self.state is None:
            return outputs
        state: Tensor = self.state(features).unsqueeze(-2)  # [B, …, 1, K]
        return dueling(state, outputs)


class ValueHead(nn.Module):
    """Head that computes one value per action.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        dueling: Whether to use a dueling network (Wang et al. 2016).
        stream_width: Width of each stream's hidden layer; see `width` in `ActionStreams`.
        initialization: Initialization for the weights of each stream's last layer; null for
            PyTorch's default.
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
        """Return action values [B, A] for features [B, D]."""
        return QValues(self.values(features).squeeze(-1))


class CategoricalHead(nn.Module):
    """Head for C51, which computes a categorical distribution of the return for each action.

    Bellemare, Dabney and Munos 2017.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        num_atoms: Number of evenly spaced atoms K, at least 2.
        v_min: Lowest atom (return).
        v_max: Highest atom (return).
        dueling: Whether to use a dueling network for the logits, as in Hessel et al. 2018.
        stream_width: Width of each stream's hidden layer; see `width` in `ActionStreams`.

    Raises:
        ConfigError: If there are fewer than two atoms, or `v_min` is not less than `v_max`.
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
            raise ConfigError(
                f"model.head: CategoricalHead needs num_atoms >= 2 and v_min < v_max, got "
                f"num_atoms {num_atoms}, v_min {v_min}, v_max {v_max}"
            )
        self.logits = ActionStreams(in_features, num_actions, num_atoms, dueling, stream_width)
        self.register_buffer("atoms", torch.linspace(v_min, v_max, num_atoms), persistent=False)

    def forward(self, features: Tensor) -> Categorical:
        """Return action values [B, A], logits [B, A, K] and atoms [K] for features [B, D]."""
        logits: Tensor = self.logits(features)
        means = (logits.softmax(-1, dtype=self.atoms.dtype) * self.atoms).sum(-1)
        return Categorical(means, logits, self.atoms)


class QuantileHead(nn.Module):
    """Head for QR-DQN, which computes K quantiles of the return per action (Dabney et al. 2018a).

    The probabilities (taus) of the quantiles are (i + 1/2) / K for i = 0 … K - 1.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        num_quantiles: Number of quantiles K.
        dueling: Whether to use a dueling network (Wang et al. 2016).
        stream_width: Width of each stream's hidden layer; see `width` in `ActionStreams`.
    """

    taus: Tensor

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
        self.register_buffer("taus", midpoints(num_quantiles), persistent=False)

    def forward(self, features: Tensor) -> Quantiles:
        """Return action values [B, A], quantiles [B, A, K] and taus [K] for features [B, D]."""
        quantiles: Tensor = self.quantiles(features)
        return Quantiles(quantiles.mean(-1), quantiles, self.taus)


class ImplicitQuantileHead(nn.Module):
    """Head for IQN, which computes quantiles of the return at any taus (Dabney et al. 2018b).

    The taus are the probabilities of the quantiles. Each tau is embedded as the vector [D]
    relu(sum_i w_i cos(pi i tau) + b) with learned vectors w_i and b and i = 0 … `num_cosines` - 1.
    The features are multiplied elementwise by this vector (eq. 4).

    If no taus are passed, as in action selection, the head uses the midpoints (i + 1/2) / K for
    i = 0 … K - 1 with K = `num_acting_taus`. The paper samples taus in action selection too, but
    midpoints estimate the mean without sampling noise.

    Args:
        in_features: Number of features D.
        num_actions: Number of actions A.
        num_taus: Number of taus sampled for each row in each forward pass of an update.
        num_acting_taus: Number of fixed taus for selecting actions.
        num_cosines: Number of cosines in the embedding of a tau.
        dueling: Whether to use a dueling network (Wang et al. 2016).
        stream_width: Width of each stream's hidden layer; see `width` in `ActionStreams`.
    """

    taus: Tensor
    frequencies: Tensor

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        num_taus: int = 8,
        num_acting_taus: int = 32,
        num_cosines: int = 64,
        dueling: bool = False,
        stream_width: int | None = None,
    ) -> None:
        super().__init__()
        self.num_taus = num_taus
        self.embedding = nn.Linear(num_cosines, in_features)
        self.quantiles = ActionStreams(in_features, num_actions, 1, dueling, stream_width)
        frequencies = math.pi * torch.arange(num_cosines)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("taus", midpoints(num_acting_taus), persistent=False)

    def forward(self, features: Tensor, taus: Tensor | None = None) -> Quantiles:
        """Return action values [B, A], quantiles [B, A, K] and the taus [B, K] or [K].

        Args:
            features: Features [B, D].
            taus: Probabilities [B, K] of the quantiles; None for the head's fixed taus [K].
        """
        if taus is None:
            taus = self.taus  # [K], embedded once for all rows
        cosines = torch.cos(taus.reshape(-1, taus.shape[-1], 1) * self.frequencies)
        embedded = torch.relu(self.embedding(cosines))  # [1, K, D] or [B, K, D]
        quantiles = self.quantiles(features[:, None] * embedded)[..., 0].transpose(1, 2)
        return Quantiles(quantiles.mean(-1), quantiles, taus)


def midpoints(count: int) -> Tensor:
    """Return the midpoints of `count` equal intervals of [0, 1]: (i + 1/2) / count.

    >>> midpoints(2)
    tensor([0.2500, 0.7500])
    """
    return (torch.arange(count) + 0.5) / count


def dueling(value: Tensor, advantage: Tensor) -> Tensor:
    """Combine state values V and advantages A into action values V + A - mean(A).

    Wang et al. 2016, eq. 9. Subtracting the mean over actions makes the decomposition unique.

    Args:
        value: State values [B, …, 1, K].
        advantage: Advantages [B, …, A, K].

    Returns:
        Action values [B, …, A, K].

    >>> dueling(torch.tensor([[[5.0]]]), torch.tensor([[[1.0], [3.0]]])).flatten()
    tensor([4., 6.])
    """
    return value + (advantage - advantage.mean(-2, keepdim=True))
