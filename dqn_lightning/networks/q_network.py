"""The Q-network, which maps observations to action values."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.errors import ConfigError
from dqn_lightning.networks.heads import (
    ActionStreams,
    CategoricalHead,
    ImplicitQuantileHead,
    QuantileHead,
    ValueHead,
)
from dqn_lightning.networks.layers import NoisyLinear, ObservationEncoder, make_noisy
from dqn_lightning.networks.torsos import (
    CNN,
    MLP,
    FrameAndDifferences,
    FrameDifference,
    TorsoFactory,
)
from dqn_lightning.types import PassNoise, UpdateNoise

_MODE_INDEPENDENT = (
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
"""Layers that ignore the training mode; any other layer is assumed to depend on it."""

HeadFactory: TypeAlias = Callable[[int, int], nn.Module]
"""Factory for heads, called with the number of features and the number of actions.

The output of the head has an attribute `q_values`.
"""


class QNetwork(nn.Module):
    """Q-network: encoder, torso and head, which together map observations to action values.

    Args:
        obs_shape: Shape of an observation, including stacked frames.
        num_actions: Number of actions A.
        torso: Factory for the torso, called with the shape of an encoded observation.
        head: Factory for the head, called with the number of features and the number of actions.
            The number of features is determined by calling the torso on zeros.
        obs_classes: Number of classes for each element of a discrete observation; None for other
            observations.
        noisy_sigma: Initial noise scale of noisy linear layers (Fortunato et al. 2018); None for
            ordinary linear layers.

    Raises:
        ConfigError: If the torso rejects the observations, or its output does not have rank 2.
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
        self.obs_encoder = ObservationEncoder(obs_shape, obs_classes)
        self.torso = torso(self.obs_encoder.out_shape)
        self.head = head(_num_features(self.torso, self.obs_encoder.out_shape), num_actions)
        if noisy_sigma is not None:
            make_noisy(self, noisy_sigma)
        self.refresh_layer_cache()

    def refresh_layer_cache(self) -> None:
        """Update the cached lists of noisy layers and of layers that depend on the training mode.

        Call this method after replacing a layer of the network.
        """
        # Exact types: a subclass may depend on the mode.
        independent = {ObservationEncoder, QNetwork, *_MODE_INDEPENDENT}
        self._mode_dependent_layers = [m for m in self.modules() if type(m) not in independent]
        self._noisy_layers = [m for m in self.modules() if isinstance(m, NoisyLinear)]
        self._noise_sizes = [layer.in_features + layer.out_features for layer in self._noisy_layers]
        self._num_taus: int | None = getattr(self.head, "num_taus", None)

    def forward(self, obs: Tensor, noise: PassNoise | None = None) -> Any:
        """Return the head's output, which always has `q_values` [B, A].

        Args:
            obs: Observations [B, …].
            noise: Random inputs for this pass; None for a deterministic pass, in which noisy layers
                use their means, and an IQN head uses its fixed taus.
        """
        layer_noise, taus = noise or PassNoise()
        if layer_noise is None:
            return self._forward(obs, taus)
        self._set_layer_noise(torch.split(layer_noise, self._noise_sizes, dim=1))
        try:
            return self._forward(obs, taus)
        finally:
            self._set_layer_noise([None] * len(self._noisy_layers))

    def features(self, obs: Tensor) -> Tensor:
        """Return the head's input: the features [B, D] for observations [B, …]."""
        features: Tensor = self.torso(self.obs_encoder(obs))
        return features

    def _forward(self, obs: Tensor, taus: Tensor | None) -> Any:
        features = self.features(obs)
        return self.head(features) if taus is None else self.head(features, taus)

    @property
    def is_noisy(self) -> bool:
        """Whether the network has noisy layers."""
        return bool(self._noisy_layers)

    @property
    def needs_update_noise(self) -> bool:
        """Whether an update needs random inputs: layer noise or taus."""
        return self.is_noisy or self._num_taus is not None

    def sample_layer_noise(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Sample the noise for all noisy layers: sgn(z) sqrt(|z|) with standard normal z.

        Args:
            num_rows: Number of rows of noise.
            rng: Random number generator; the result is on its device.

        Returns:
            Noise [num_rows, R], where R is the total number of inputs and outputs of these layers.
        """
        z = torch.randn(num_rows, sum(self._noise_sizes), generator=rng, device=rng.device)
        return z.abs().sqrt_().copysign_(z)

    def sample_update_noise(self, batch_size: int, rng: torch.Generator) -> UpdateNoise | None:
        """Sample the random inputs of an update, or return None if the update needs none.

        The online, selector and target passes (see `UpdateNoise`) use independent layer noise,
        shared by all rows. The online and target passes also use independent taus for each row; the
        selector pass uses the head's fixed taus.

        Args:
            batch_size: Number of rows in the batch.
            rng: Random number generator; the results are on its device.

        Returns:
            Layer noise [1, R] for each pass, and K taus per row [B, K] for the online and target
            passes. R is the total number of inputs and outputs of the noisy layers.
        """
        if not self.needs_update_noise:
            return None
        layer_noise: list[Tensor | None] = [None] * 3
        if self._noisy_layers:
            layer_noise = list(torch.split(self.sample_layer_noise(3, rng), 1))
        taus: list[Tensor | None] = [None] * 2
        if self._num_taus is not None:
            shape = 2, batch_size, self._num_taus
            taus = list(torch.rand(shape, generator=rng, device=rng.device))
        online, target = (PassNoise(layer_noise[i], taus[i]) for i in range(2))
        return UpdateNoise(online, PassNoise(layer_noise[2]), target)

    def _set_layer_noise(self, noise: Sequence[Tensor | None]) -> None:
        """Set the attribute `noise` of each noisy layer; the argument has one element per layer."""
        for layer, own_noise in zip(self._noisy_layers, noise, strict=True):
            layer.noise = own_noise

    def set_mode(self, training: bool) -> None:
        """Switch to training or evaluation mode, like `train()` and `eval()` but faster.

        Only layers that may depend on the mode are switched; all other layers keep their `training`
        attribute. The mode changes twice per update, because acting and learning alternate;
        visiting all layers each time would take as long as selecting one action.

        Args:
            training: Whether to switch to training mode instead of evaluation mode.
        """
        for layer in self._mode_dependent_layers:
            if layer.training != training:
                layer.training = training


def _num_features(torso: nn.Module, obs_shape: Sequence[int]) -> int:
    """Return a torso's number of features, found by calling it on one observation of zeros."""
    training = torso.training
    try:
        with torch.no_grad():  # eval mode: batch norm must not learn from zeros
            features = torso.eval()(torch.zeros(1, *obs_shape))
    except RuntimeError as error:
        raise ConfigError(
            f"model.network: {type(torso).__name__} does not accept observations of shape "
            f"{list(obs_shape)}: {error}"
        ) from error
    torso.train(training)
    if features.ndim != 2:
        raise ConfigError(
            f"model.network: the network must return features of shape [batch, features], but "
            f"{type(torso).__name__} returns {list(features.shape)}; end it with nn.Flatten()"
        )
    return int(features.shape[1])
