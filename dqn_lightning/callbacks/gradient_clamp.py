"""Callback that clips gradients by value or by norm."""

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from dqn_lightning.engines import accepts_flat_gradient
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule


class GradientClamp(Callback):
    """Callback that clips the gradients in every update by value, by norm, or by both.

    If both limits are given, the gradients are clipped by value first.

    Args:
        value: Maximum absolute value of a gradient element; null to disable clipping by value.
        norm: Maximum Euclidean norm of all gradients together; if it is exceeded, all gradients are
            scaled down. Null to disable clipping by norm.

    Raises:
        ConfigError: If a limit is not positive.
    """

    def __init__(self, value: float | None = None, norm: float | None = None) -> None:
        for name, limit in {"value": value, "norm": norm}.items():
            if limit is not None and limit <= 0:
                raise ConfigError(f"gradient_clamp.{name}: must be positive, got {limit}")
        self.value = value
        self.norm = norm

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Register the functions that clip the gradients."""
        if self.value is not None:
            pl_module.grad_transforms.append(self._clamp_value)
        if self.norm is not None:
            pl_module.grad_transforms.append(self._clamp_norm)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Unregister the functions that clip the gradients."""
        ours = (self._clamp_value, self._clamp_norm)
        pl_module.grad_transforms[:] = [t for t in pl_module.grad_transforms if t not in ours]

    def on_exception(
        self, trainer: Trainer, pl_module: DQNModule, exception: BaseException
    ) -> None:
        """Unregister the functions that clip the gradients if training fails."""
        self.on_train_end(trainer, pl_module)

    @accepts_flat_gradient
    def _clamp_value(self, gradients: list[Tensor]) -> list[Tensor]:
        assert self.value is not None
        return clamp_value(gradients, self.value)

    @accepts_flat_gradient
    def _clamp_norm(self, gradients: list[Tensor]) -> list[Tensor]:
        assert self.norm is not None
        return clamp_norm(gradients, self.norm)


def clamp_value(gradients: list[Tensor], value: float) -> list[Tensor]:
    """Clip every gradient element to [-value, value].

    >>> clamp_value([torch.tensor([0.5, -3.0])], 1.0)
    [tensor([ 0.5000, -1.0000])]
    """
    return [gradient.clamp(-value, value) for gradient in gradients]


def clamp_norm(gradients: list[Tensor], norm: float) -> list[Tensor]:
    """Clip the joint norm of the gradients to at most `norm` (Pascanu et al. 2013).

    All gradients are scaled by `min(1, norm / total_norm)`, where `total_norm` is the joint
    Euclidean norm.

    >>> clamp_norm([torch.tensor([3.0]), torch.tensor([4.0])], 1.0)
    [tensor([0.6000]), tensor([0.8000])]
    """
    total = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
    scale = norm * total.clamp(min=norm).reciprocal()  # no host-device sync
    return [gradient * scale for gradient in gradients]
