"""The gradients of all parameters as one vector."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Gradient:
    """One vector in which the parameters' gradients lie side by side.

    It is reduced over ranks in one piece, and scaled or clamped by one operation.

    Args:
        parameters: Of one dtype and device; their `grad` becomes views of the vector.

    Attributes:
        vector: The gradients.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._sizes = [parameter.numel() for parameter in parameters]
        self.vector = parameters[0].detach().new_zeros(sum(self._sizes))
        self._views = self.parts(self.vector)

    def attach(self) -> None:
        """Have the parameters show their gradients, whatever they were given meanwhile."""
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view

    def parts(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector, in the shapes of the parameters."""
        parts = torch.split(vector, self._sizes)
        return [part.view_as(p) for part, p in zip(parts, self._parameters, strict=True)]
