"""Layers and initialisations that torsos and heads are built of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Initialization(Protocol):
    """Fills a layer's weight in place; biases keep PyTorch's default."""

    def __call__(self, weight: Tensor) -> Any:
        """Fill the weight; what is given back is not used."""
        ...  # said to give a Tensor, the command line would ask for one


@dataclass(frozen=True)
class Normal:
    """Weights from a normal distribution around 0 with this standard deviation."""

    std: float

    def __call__(self, weight: Tensor) -> Any:
        """Fill the weight in place."""
        return nn.init.normal_(weight, std=self.std)


@dataclass(frozen=True)
class Orthogonal:
    """Orthogonal weights scaled by `gain` (Saxe et al. 2014)."""

    gain: float = 1.0

    def __call__(self, weight: Tensor) -> Any:
        """Fill the weight in place."""
        return nn.init.orthogonal_(weight, gain=self.gain)


def linear(
    in_features: int, out_features: int, initialization: Initialization | None = None
) -> nn.Linear:
    """A linear layer, its weight drawn by `initialization` (PyTorch's default if None)."""
    layer = nn.Linear(in_features, out_features)
    if initialization is not None:
        initialization(layer.weight)
    return layer


class NoisyLinear(nn.Linear):
    """A linear layer whose weights are drawn anew: factorised noise of learnt size.

    Weights are W + S * outer(e_out, e_in) and biases b + s * e_out, where e = sgn(z) sqrt(|z|) of
    normal z: Fortunato et al. 2018, eq. 9 to 11. Where each row has noise of its own it is computed
    as W x + b + e_out * (S (e_in * x) + s), without a matrix for each row.

    The noise is lent to the layer for one pass (see `QNetwork`); without any, it is a linear layer.
    Its parameters `weight` and `bias` are the means.

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        bias: Whether there are biases.
        sigma: Size of the noise at the start, divided by the root of `in_features`.

    Attributes:
        noise: What is lent: [B or 1, inputs + outputs].
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
        """[B, inputs] or [B, …, inputs] → the same with outputs."""
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
    """Put a `NoisyLinear` with the same means in the place of every linear layer inside."""
    for name, child in module.named_children():
        if type(child) is not nn.Linear:
            make_noisy(child, sigma)
            continue
        has_bias = child.bias is not None
        noisy = NoisyLinear(child.in_features, child.out_features, has_bias, sigma)
        noisy.weight, noisy.bias = child.weight, child.bias
        setattr(module, name, noisy)


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that are learnt, as batch normalisation's; no constants, which are not saved."""
    saved = module.state_dict()
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module calls more than its `forward`."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class Observation(nn.Module):
    """The first layer of any network: stored observations → floating point, on its device.

    uint8 is scaled to [0, 1]; numbers of classes become one-hot vectors, side by side; anything
    else is converted.

    Args:
        obs_shape: Shape of an observation, stack included.
        obs_classes: Number of classes of each element of a discrete observation, else None.
    """

    def __init__(self, obs_shape: Sequence[int], obs_classes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.obs_classes = None if obs_classes is None else tuple(obs_classes)
        self.out_shape = tuple(obs_shape) if obs_classes is None else (sum(obs_classes),)

    def forward(self, obs: Tensor) -> Tensor:
        """[B, …] of any dtype → [B, …] float."""
        if self.obs_classes is not None:
            columns = [  # `one_hot` would look at the numbers first, which cannot be recorded
                obs[:, i, None] == torch.arange(classes, device=obs.device)
                for i, classes in enumerate(self.obs_classes)
            ]
            return torch.cat(columns, dim=1).to(torch.get_default_dtype())
        if obs.dtype == torch.uint8:
            # In place: a second large block of memory takes ten times as long as the arithmetic.
            return obs.to(torch.get_default_dtype()).div_(255)
        return obs.to(torch.get_default_dtype())
