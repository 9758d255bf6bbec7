"""One vector that holds the gradients of all parameters, and transforms that accept it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from dqn_lightning.engines.purity import declare_pure

_Transform = TypeVar("_Transform", bound=Callable[..., list[Tensor]])


def accepts_flat_gradient(transform: _Transform) -> _Transform:
    """Mark a gradient transform that may be applied to one flat vector of all gradients.

    A gradient transform maps a list of gradients to a list of transformed gradients. Engines that
    keep all gradients in one vector call a marked transform with a list that contains only this
    vector. The result must therefore not depend on how the gradients are divided into tensors.

    The decorator also declares the transform to be pure (see `declare_pure`), with one exception: a
    method or callable object may read numbers, strings and booleans from the object's attributes.
    Engines record the transform again when one of these changes.
    """
    transform.accepts_flat_gradient = True  # type: ignore[attr-defined]  # functions accept any
    return declare_pure(transform)


class FlatGradient:
    """The gradients of all parameters as one flat vector.

    A single operation can average the vector over ranks, or scale or clip it.

    Args:
        parameters: Parameters, all of one dtype and on one device; `attach` sets their `grad`
            attributes to views of the vector.

    Attributes:
        vector: Flattened gradients, concatenated in the order of the parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._sizes = [parameter.numel() for parameter in parameters]
        self.vector = parameters[0].detach().new_zeros(sum(self._sizes))
        self._views = self.split(self.vector)

    def attach(self) -> None:
        """Set the `grad` attribute of each parameter to its view of the vector."""
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view

    def split(self, vector: Tensor) -> list[Tensor]:
        """Split a flat vector into views that have the shapes of the parameters."""
        parts = torch.split(vector, self._sizes)
        return [part.view_as(p) for part, p in zip(parts, self._parameters, strict=True)]
