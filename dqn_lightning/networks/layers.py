"""Layers and weight initializations used by torsos and heads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Initialization(Protocol):
    """Function that initializes a layer's weight in place; biases keep PyTorch's default."""

    def __call__(self, weight: Tensor) -> Any:
        """Initialize the weight in place; the return value is ignored."""
        ...  # not annotated as Tensor: the command line would ask for a subclass of Tensor


@dataclass(frozen=True)
class Normal:
    """Initialization with normally distributed weights of mean 0.

    Args:
        std: Standard deviation of the weights.
    """

    std: float

    def __call__(self, weight: Tensor) -> Any:
        """Initialize the weight in place."""
        return nn.init.normal_(weight, std=self.std)


@dataclass(frozen=True)
class Orthogonal:
    """Initialization with an orthogonal weight matrix (Saxe, McClelland and Ganguli 2014).

    Args:
        gain: Factor by which the orthogonal matrix is multiplied.
    """

    gain: float = 1.0

    def __call__(self, weight: Tensor) -> Any:
        """Initialize the weight in place."""
        return nn.init.orthogonal_(weight, gain=self.gain)


def linear(
    in_features: int, out_features: int, initialization: Initialization | None = None
) -> nn.Linear:
    """Return a linear layer with a weight from `initialization`, or PyTorch's default if None."""
    layer = nn.Linear(in_features, out_features)
    if initialization is not None:
        initialization(layer.weight)
    return layer


class NoisyLinear(nn.Linear):
    """Linear layer with factorized Gaussian noise on weights and biases (Fortunato et al. 2018).

    The weights are W + S * outer(e_out, e_in) and the biases are b + s * e_out. The elements of
    e_in and e_out are sgn(z) sqrt(|z|) for standard normal z (eq. 9 to 11). The products with * are
    elementwise. The means W (`weight`) and b (`bias`) and the noise scales S (`weight_sigma`) and s
    (`bias_sigma`) are learned. With separate noise for each row, the layer avoids a weight matrix
    per row by computing W x + b + e_out * (S (e_in * x) + s).

    `QNetwork` sets the attribute `noise` for the duration of one forward pass. While `noise` is
    None, the layer is an ordinary linear layer with weights W and biases b.

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        bias: Whether the layer has biases.
        sigma: Initial noise scale; the elements of S and s start at sigma / sqrt(in_features).

    Attributes:
        noise: Values of e_in and e_out, concatenated: [B, in_features + out_features], or
            [1, in_features + out_features] if shared by all rows; None for no noise.
    """

    bias_sigma: nn.Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, sigma: float = 0.5
    ) -> None:
        super().__init__(in_features, out_features, bias)
        start = sigma / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), start))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), start)) if bias else None
        self.noise: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [B, …, out_features] for inputs [B, …, in_features]."""
        if self.noise is None:
            return super().forward(x)
        sizes = [self.in_features, self.out_features]
        if len(self.noise) == 1 < len(x):
            e_in, e_out = torch.split(self.noise[0], sizes)
            weight = torch.addcmul(self.weight, self.weight_sigma, torch.outer(e_out, e_in))
            if self.bias_sigma is None:
                return functional.linear(x, weight)
            return functional.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, e_out))
        noise = self.noise.view(len(self.noise), *(1,) * (x.ndim - 2), -1)
        e_in, e_out = torch.split(noise, sizes, dim=-1)
        spread = functional.linear(x * e_in, self.weight_sigma, self.bias_sigma)
        return torch.addcmul(super().forward(x), e_out, spread)


def make_noisy(module: nn.Module, sigma: float = 0.5) -> None:
    """Replace every `nn.Linear` inside the module with a `NoisyLinear`, in place.

    The parameters of the replaced layers become the means.

    Args:
        module: Module to modify.
        sigma: Initial noise scale; see `NoisyLinear`.
    """
    for name, child in module.named_children():
        if type(child) is not nn.Linear:
            make_noisy(child, sigma)
            continue
        has_bias = child.bias is not None
        noisy = NoisyLinear(child.in_features, child.out_features, has_bias, sigma)
        noisy.weight, noisy.bias = child.weight, child.bias
        setattr(module, name, noisy)


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers in the module's `state_dict` by name, such as batch norm's statistics."""
    saved = module.state_dict()
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}


class ObservationEncoder(nn.Module):
    """First layer of every network, which converts stored observations to floating point.

    uint8 observations are scaled to [0, 1]. Discrete observations become concatenated one-hot
    vectors. The values of other observations do not change. The dtype of the output is that of the
    network: converting the network, as `double()` does, also converts a buffer of this layer.

    Args:
        obs_shape: Shape of an observation, including stacked frames.
        obs_classes: Number of classes for each element of a discrete observation; None for other
            observations.

    Attributes:
        out_shape: Shape of an encoded observation.
    """

    _dtype_marker: Tensor

    def __init__(self, obs_shape: Sequence[int], obs_classes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.obs_classes = None if obs_classes is None else tuple(obs_classes)
        self.out_shape = tuple(obs_shape) if obs_classes is None else (sum(obs_classes),)
        self.register_buffer("_dtype_marker", torch.zeros(1), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """Return encoded observations [B, *out_shape] in the network's dtype."""
        dtype = self._dtype_marker.dtype
        if self.obs_classes is not None:
            # Not `one_hot`: it inspects the values on the host, which an engine cannot record.
            columns = [
                obs[:, i, None] == torch.arange(classes, device=obs.device)
                for i, classes in enumerate(self.obs_classes)
            ]
            return torch.cat(columns, dim=1).to(dtype)
        if obs.dtype == torch.uint8:
            # In place: allocating a second large tensor costs ten times as much as the division.
            return obs.to(dtype).div_(255)
        return obs.to(dtype)
