"""Torsos: observations → features."""

from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.networks.layers import Initialization, linear

TorsoFactory: TypeAlias = Callable[[Sequence[int]], nn.Module]
"""Shape of an observation → module that makes features [B, D] of observations [B, …]."""


class MLP(nn.Module):
    """Linear layers, each followed by an activation; the observation is flattened first.

    Args:
        obs_shape: Shape of an observation, without the batch.
        widths: Width of each layer; the last is the number of features. Empty for none.
        activation: Makes the activation between layers.
        initialization: Fills each weight in place; PyTorch's default if None.
        layer_norm: Whether each linear layer is followed by layer normalisation (Ba, Kiros and
            Hinton 2016).

    Raises:
        ValueError: If a width is not positive.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        widths: Sequence[int] = (256, 256),
        activation: Callable[[], nn.Module] = nn.ReLU,
        initialization: Initialization | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in widths):
            raise ValueError(f"MLP: every one of widths must be at least 1, got {list(widths)}")
        self.flattens = len(obs_shape) > 1
        sizes = [prod(obs_shape), *widths]
        self.layers = nn.ModuleList(
            linear(ins, outs, initialization) for ins, outs in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths if layer_norm)
        self.activation = activation()

    def forward(self, obs: Tensor) -> Tensor:
        """Observations [B, …] → features [B, D]."""
        features = obs.flatten(1) if self.flattens else obs
        for layer, norm in zip_longest(self.layers, self.norms):
            features = layer(features)
            if norm is not None:
                features = norm(features)
            features = self.activation(features)
        return features


class CNN(nn.Module):
    """Convolutions of a picture, then linear layers; ReLU after each.

    The defaults are the network of Mnih et al. 2015.

    Args:
        obs_shape: [C, H, W].
        channels: Channels that each convolution makes.
        kernel_sizes: Side of each convolution's kernel, or its height and width, in pixels.
        strides: Step of each convolution, or its steps down and across, in pixels.
        batch_norm: Whether each convolution is followed by batch normalisation (Ioffe and Szegedy
            2015).
        widths: Width of each linear layer. If empty, the last convolution's outputs are the
            features.
        layer_norm: Whether convolutions and linear layers are followed by layer normalisation (Ba,
            Kiros and Hinton 2016), over all channels and places.

    Raises:
        ValueError: If the observation is no picture, or too small for these convolutions.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 64),
        kernel_sizes: Sequence[int | tuple[int, int]] = (8, 4, 3),
        strides: Sequence[int | tuple[int, int]] = (4, 2, 1),
        batch_norm: bool = False,
        widths: Sequence[int] = (512,),
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(obs_shape) != 3:
            raise ValueError(
                f"model.network: CNN needs pictures [channels, height, width], the observations "
                f"are {list(obs_shape)}"
            )
        if not len(channels) == len(kernel_sizes) == len(strides):
            raise ValueError(
                f"model.network: CNN needs as many channels ({len(channels)}) as kernel_sizes "
                f"({len(kernel_sizes)}) and strides ({len(strides)})"
            )
        ins, *size = obs_shape
        layers: list[nn.Module] = []
        for outs, kernel_size, stride in zip(channels, kernel_sizes, strides, strict=True):
            layers.append(convolution := nn.Conv2d(ins, outs, kernel_size, stride))
            if batch_norm:
                layers.append(nn.BatchNorm2d(outs))
            if layer_norm:
                layers.append(nn.GroupNorm(1, outs))  # over the whole picture, scaled by channels
            layers.append(nn.ReLU())
            steps = zip(size, convolution.kernel_size, convolution.stride, strict=True)
            ins, size = outs, [(side - kernel) // step + 1 for side, kernel, step in steps]
            if min(size) < 1:
                raise ValueError(
                    f"model.network: pictures of {obs_shape[1]} x {obs_shape[2]} are too small for "
                    f"CNN with kernel_sizes {list(kernel_sizes)} and strides {list(strides)}"
                )
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.linear = MLP((ins * prod(size),), widths, layer_norm=layer_norm)

    def forward(self, obs: Tensor) -> Tensor:
        """Pictures [B, C, H, W] → features [B, D]."""
        features: Tensor = self.linear(self.convolutions(obs))
        return features


class FrameDifference(nn.Module):
    """Gives another torso the newest of two stacked frames minus the one before.

    Args:
        obs_shape: Shape of two frames, stacked along their first dimension.
        torso: Makes the other torso, for the shape of one frame.
        scale: Factor of the difference.

    Raises:
        ValueError: If there are not two frames.
    """

    def __init__(
        self, obs_shape: Sequence[int], torso: TorsoFactory = CNN, scale: float = 1.0
    ) -> None:
        super().__init__()
        stacked, *rest = obs_shape
        if stacked % 2:
            raise ValueError(
                f"model.network: FrameDifference needs data.frame_stack 2, the observations are "
                f"{list(obs_shape)}"
            )
        self.scale = scale
        self.torso = torso((stacked // 2, *rest))

    def forward(self, obs: Tensor) -> Tensor:
        """Stacks of two frames [B, 2 C, …] → features [B, D]."""
        older, newest = obs.chunk(2, dim=1)
        difference = newest - older
        if self.scale != 1:  # it is a pass over all pixels
            difference = difference * self.scale
        features: Tensor = self.torso(difference)
        return features


class FrameAndDifferences(nn.Module):
    """Gives another torso the newest of several stacked frames, and how each differs from the last.

    From one frame to the next little changes, and what moves is told by that little. A network that
    is given the frames has to find it in small differences of large numbers; here it is given the
    differences, and the newest frame less its mean (of a picture that is mostly background: what is
    not background), all made larger.

    Args:
        obs_shape: Shape of the frames, stacked along their first dimension.
        torso: Makes the other torso, for as many frames.
        num_frames: Number of them, that of `data.frame_stack`.
        scale: Factor of the differences and of the frame.

    Raises:
        ValueError: If there are not so many frames.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        torso: TorsoFactory = CNN,
        num_frames: int = 4,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        if num_frames < 2 or obs_shape[0] % num_frames:
            raise ValueError(
                f"model.network: FrameAndDifferences with num_frames {num_frames} needs "
                f"data.frame_stack {max(2, num_frames)}, the observations are {list(obs_shape)}"
            )
        self.channels = obs_shape[0] // num_frames
        self.scale = scale
        self.torso = torso(obs_shape)

    def forward(self, obs: Tensor) -> Tensor:
        """Stacks of frames [B, S C, …] → features [B, D]."""
        newest = obs[:, -self.channels :]
        newest = newest - newest.mean(dim=tuple(range(1, newest.ndim)), keepdim=True)
        differences = obs[:, self.channels :] - obs[:, : -self.channels]
        features: Tensor = self.torso(torch.cat([newest, differences], dim=1).mul_(self.scale))
        return features
