"""Keeps gradients small."""

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from dqn_lightning.engines import joint
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule


class GradientClamp(Callback):
    """Clamps the gradients of every update: element by element, or all together by their norm.

    Args:
        value: Every element is clamped to [-value, value]; not at all if None.
        norm: Gradients are scaled down to this Euclidean norm over all parameters, if theirs is
            greater; not at all if None.

    Raises:
        ConfigError: If a bound is not positive.
    """

    def __init__(self, value: float | None = None, norm: float | None = None) -> None:
        for name, bound in {"value": value, "norm": norm}.items():
            if bound is not None and bound <= 0:
                raise ConfigError(f"gradient_clamp.{name}: must be positive, got {bound}")
        self.value = value
        self.norm = norm

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Attach to the update."""
        if self.value is not None:
            pl_module.grad_transforms.append(self._clamp_value)
        if self.norm is not None:
            pl_module.grad_transforms.append(self._clamp_norm)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Let go again."""
        ours = (self._clamp_value, self._clamp_norm)
        pl_module.grad_transforms[:] = [t for t in pl_module.grad_transforms if t not in ours]

    def on_exception(
        self, trainer: Trainer, pl_module: DQNModule, exception: BaseException
    ) -> None:
        """Let go again."""
        self.on_train_end(trainer, pl_module)

    @joint
    def _clamp_value(self, gradients: list[Tensor]) -> list[Tensor]:
        assert self.value is not None
        return clamp_value(gradients, self.value)

    @joint
    def _clamp_norm(self, gradients: list[Tensor]) -> list[Tensor]:
        assert self.norm is not None
        return clamp_norm(gradients, self.norm)


def clamp_value(gradients: list[Tensor], value: float) -> list[Tensor]:
    """Every element clamped to [-value, value].

    >>> clamp_value([torch.tensor([0.5, -3.0])], 1.0)
    [tensor([ 0.5000, -1.0000])]
    """
    return [gradient.clamp(-value, value) for gradient in gradients]


def clamp_norm(gradients: list[Tensor], norm: float) -> list[Tensor]:
    """All scaled by min(1, norm / their Euclidean norm) (Pascanu et al. 2013).

    >>> clamp_norm([torch.tensor([3.0]), torch.tensor([4.0])], 1.0)
    [tensor([0.6000]), tensor([0.8000])]
    """
    total = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
    scale = norm * total.clamp(min=norm).reciprocal()  # no host-device sync
    return [gradient * scale for gradient in gradients]
