"""Torsos, which compute features from encoded observations."""

from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor, nn

from dqn_lightning.errors import ConfigError
from dqn_lightning.networks.layers import Initialization, linear

TorsoFactory: TypeAlias = Callable[[Sequence[int]], nn.Module]
"""Factory for torsos, called with the shape of an observation.

A torso is a module that computes features [B, D] for observations [B, …].
"""


class MLP(nn.Module):
    """Multilayer perceptron: linear layers, each followed by an activation.

    Observations with several dimensions are flattened first.

    Args:
        obs_shape: Shape of an observation, without the batch dimension.
        widths: Width of each layer; the last one is the number of features. If empty, the
            features are the flattened observation.
        activation: Factory for the activation that follows each layer.
        initialization: Initialization for the weights; null for PyTorch's default.
        layer_norm: Whether to apply layer normalization (Ba, Kiros and Hinton 2016) between each
            linear layer and its activation.

    Raises:
        ConfigError: If a width is not positive.
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
            raise ConfigError(
                f"model.network: MLP: all widths must be at least 1, got {list(widths)}"
            )
        self.flattens = len(obs_shape) > 1
        sizes = [prod(obs_shape), *widths]
        self.layers = nn.ModuleList(
            linear(ins, outs, initialization) for ins, outs in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths if layer_norm)
        self.activation = activation()

    def forward(self, obs: Tensor) -> Tensor:
        """Return features [B, D] for observations [B, …]."""
        features = obs.flatten(1) if self.flattens else obs
        for layer, norm in zip_longest(self.layers, self.norms):
            features = layer(features)
            if norm is not None:
                features = norm(features)
            features = self.activation(features)
        return features


class CNN(nn.Module):
    """Convolutional network: convolutions, then linear layers, each followed by ReLU.

    The default arguments describe the network of Mnih et al. 2015.

    Args:
        obs_shape: Shape [C, H, W] of an observation.
        channels: Number of output channels of each convolution.
        kernel_sizes: Kernel size of each convolution in pixels: one number, or height and width.
        strides: Stride of each convolution in pixels: one number, or vertical and horizontal.
        batch_norm: Whether to apply batch normalization (Ioffe and Szegedy 2015) between each
            convolution and its ReLU.
        widths: Width of each linear layer; the last one is the number of features. If empty, the
            features are the flattened output of the last convolution.
        layer_norm: Whether to apply layer normalization (Ba, Kiros and Hinton 2016) between each
            convolution or linear layer and its ReLU. The output of a convolution is normalized over
            all channels and positions.

    Raises:
        ConfigError: If the observation is not an image [C, H, W] or is too small for the
            convolutions, or if `channels`, `kernel_sizes` and `strides` differ in length.
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
            raise ConfigError(
                f"model.network: CNN needs observations of shape [channels, height, width], got "
                f"{list(obs_shape)}"
            )
        if not len(channels) == len(kernel_sizes) == len(strides):
            raise ConfigError(
                f"model.network: CNN needs channels, kernel_sizes and strides of equal length, got "
                f"{len(channels)}, {len(kernel_sizes)} and {len(strides)}"
            )
        ins, *size = obs_shape
        layers: list[nn.Module] = []
        for outs, kernel_size, stride in zip(channels, kernel_sizes, strides, strict=True):
            layers.append(convolution := nn.Conv2d(ins, outs, kernel_size, stride))
            if batch_norm:
                layers.append(nn.BatchNorm2d(outs))
            if layer_norm:
                layers.append(nn.GroupNorm(1, outs))  # one group: layer norm over C, H, W
            layers.append(nn.ReLU())
            steps = zip(size, convolution.kernel_size, convolution.stride, strict=True)
            ins, size = outs, [(side - kernel) // step + 1 for side, kernel, step in steps]
            if min(size) < 1:
                raise ConfigError(
                    f"model.network: images of {obs_shape[1]} x {obs_shape[2]} are too small for "
                    f"CNN with kernel_sizes {list(kernel_sizes)} and strides {list(strides)}"
                )
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.linear = MLP((ins * prod(size),), widths, layer_norm=layer_norm)

    def forward(self, obs: Tensor) -> Tensor:
        """Return features [B, D] for images [B, C, H, W]."""
        features: Tensor = self.linear(self.convolutions(obs))
        return features


class FrameDifference(nn.Module):
    """Torso that passes the difference of two stacked frames, newest minus older, to another torso.

    Args:
        obs_shape: Shape of an observation: two frames, stacked along their first dimension.
        torso: Factory for the other torso, called with the shape of one frame.
        scale: Factor by which the difference is multiplied.

    Raises:
        ConfigError: If the first dimension of `obs_shape` is odd and thus cannot hold two frames.
    """

    def __init__(
        self, obs_shape: Sequence[int], torso: TorsoFactory = CNN, scale: float = 1.0
    ) -> None:
        super().__init__()
        stacked, *rest = obs_shape
        if stacked % 2:
            raise ConfigError(
                f"model.network: FrameDifference needs data.replay.frame_stack 2, got observations "
                f"of shape {list(obs_shape)}"
            )
        self.scale = scale
        self.torso = torso((stacked // 2, *rest))

    def forward(self, obs: Tensor) -> Tensor:
        """Return features [B, D] for stacks [B, 2 C, …] of two frames with C channels."""
        older, newest = obs.chunk(2, dim=1)
        difference = newest - older
        if self.scale != 1:  # avoids a pass over all pixels
            difference = difference * self.scale
        features: Tensor = self.torso(difference)
        return features


class FrameAndDifferences(nn.Module):
    """Torso that passes the newest frame and the differences of successive frames to another torso.

    The input is a stack of frames. Motion is visible only in the differences of successive frames,
    which are small compared with the pixel values, so this torso computes the differences
    explicitly. It also subtracts the mean pixel value from the newest frame, and multiplies the
    result and the differences by `scale`.

    Args:
        obs_shape: Shape of an observation: frames stacked along their first dimension.
        torso: Factory for the other torso, called with `obs_shape`.
        num_frames: Number of stacked frames, equal to `data.replay.frame_stack`.
        scale: Factor by which the newest frame and the differences are multiplied.

    Raises:
        ConfigError: If `num_frames` is less than 2 or does not divide the first dimension of
            `obs_shape`.
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
            raise ConfigError(
                f"model.network: FrameAndDifferences with num_frames {num_frames} needs "
                f"data.replay.frame_stack {max(2, num_frames)}, got observations of shape "
                f"{list(obs_shape)}"
            )
        self.channels = obs_shape[0] // num_frames
        self.scale = scale
        self.torso = torso(obs_shape)

    def forward(self, obs: Tensor) -> Tensor:
        """Return features [B, D] for stacks [B, S C, …] of S frames with C channels."""
        newest = obs[:, -self.channels :]
        newest = newest - newest.mean(dim=tuple(range(1, newest.ndim)), keepdim=True)
        differences = obs[:, self.channels :] - obs[:, : -self.channels]
        features: Tensor = self.torso(torch.cat([newest, differences], dim=1).mul_(self.scale))
        return features
