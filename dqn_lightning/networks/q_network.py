"""The whole network: observation layer, torso, head."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.networks.heads import (
    ActionStreams,
    CategoricalHead,
    ImplicitQuantileHead,
    QuantileHead,
    ValueHead,
)
from dqn_lightning.networks.layers import NoisyLinear, Observation, make_noisy
from dqn_lightning.networks.torsos import (
    CNN,
    MLP,
    FrameAndDifferences,
    FrameDifference,
    TorsoFactory,
)
from dqn_lightning.types import Draw, Draws

_SAME_IN_BOTH_MODES = (
    ActionStreams,
    CNN,
    CategoricalHead,
    FrameAndDifferences,
    FrameDifference,
    ImplicitQuantileHead,
    MLP,
    NoisyLinear,
    QuantileHead,
    ValueHead,
    nn.Conv2d,
    nn.Flatten,
    nn.GroupNorm,
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
        noisy_sigma: Size of the noise of linear layers (Fortunato et al. 2018); none if None.

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
        noisy_sigma: float | None = None,
    ) -> None:
        super().__init__()
        self.observation = Observation(obs_shape, obs_classes)
        self.torso = torso(self.observation.out_shape)
        self.head = head(_num_features(self.torso, self.observation.out_shape), num_actions)
        if noisy_sigma is not None:
            make_noisy(self, noisy_sigma)
        self.list_layers()

    def list_layers(self) -> None:
        """See anew which layers `switch` must switch and which are noisy, after an exchange."""
        same = {Observation, QNetwork, *_SAME_IN_BOTH_MODES}  # themselves, not what inherits
        self._mode_dependent = [m for m in self.modules() if type(m) not in same]
        self._noisy = [m for m in self.modules() if isinstance(m, NoisyLinear)]
        self._noise_sizes = [layer.in_features + layer.out_features for layer in self._noisy]
        self._num_fractions: int | None = getattr(self.head, "num_fractions", None)

    def forward(self, obs: Tensor, draw: Draw | None = None) -> Any:
        """Observations [B, …] → what the head makes of them, always with `q_values` [B, A].

        Args:
            obs: Observations [B, …].
            draw: What is random in this pass; without it nothing is, as in an evaluation.
        """
        noise, fractions = draw or Draw()
        if noise is None:
            return self._forward(obs, fractions)
        self._lend(torch.split(noise, self._noise_sizes, dim=1))
        try:
            return self._forward(obs, fractions)
        finally:
            self._lend([None] * len(self._noisy))

    def features(self, obs: Tensor) -> Tensor:
        """Observations [B, …] → what the head is given [B, D]."""
        features: Tensor = self.torso(self.observation(obs))
        return features

    def _forward(self, obs: Tensor, fractions: Tensor | None) -> Any:
        features = self.features(obs)
        return self.head(features) if fractions is None else self.head(features, fractions)

    @property
    def is_noisy(self) -> bool:
        """Whether it has noisy layers: it explores by itself."""
        return bool(self._noisy)

    @property
    def is_random(self) -> bool:
        """Whether something is drawn for each pass of an update."""
        return self.is_noisy or self._num_fractions is not None

    def draw_noise(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Noise for so many rows [num_rows, R]: e = sgn(z) sqrt(|z|) of normal z."""
        z = torch.randn(num_rows, sum(self._noise_sizes), generator=rng, device=rng.device)
        return z.abs().sqrt_().copysign_(z)

    def draws(self, batch_size: int, rng: torch.Generator) -> Draws | None:
        """What is random in an update; None if nothing is.

        Each of the three passes has noise of its own, the same for all rows.
        """
        if not self.is_random:
            return None
        noises: list[Tensor | None] = [None] * 3
        if self._noisy:
            noises = list(torch.split(self.draw_noise(3, rng), 1))
        fractions: list[Tensor | None] = [None] * 2
        if self._num_fractions is not None:
            shape = 2, batch_size, self._num_fractions
            fractions = list(torch.rand(shape, generator=rng, device=rng.device))
        online, target = (Draw(noises[i], fractions[i]) for i in range(2))
        return Draws(online, Draw(noises[2]), target)

    def _lend(self, noises: Sequence[Tensor | None]) -> None:
        for layer, noise in zip(self._noisy, noises, strict=True):
            layer.noise = noise

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
