"""The reference engine: one update, operation by operation."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from dqn_lightning import ranks
from dqn_lightning.losses import Objective, ObjectiveOutput
from dqn_lightning.networks import QNetwork
from dqn_lightning.types import Batch, Draws

GradTransform: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
"""A pure function of the gradients, in the order of the parameters."""

_Transform = TypeVar("_Transform", bound=Callable[..., list[Tensor]])


def joint(transform: _Transform) -> _Transform:
    """Mark a transform to which it is all the same how the gradients are divided into tensors.

    Engines that have the gradients as one vector then pass it that one.
    """
    transform.is_joint = True  # type: ignore[attr-defined]  # functions may have any
    return transform


class Eager:
    """Executes updates: loss, gradients, their mean over ranks, their transforms, optimiser step.

    Args:
        online: Network that learns.
        target: Network that the targets come from; always used in eval mode.
        objective: What is made smaller.
        optimizer: Raw optimiser over the online network's parameters.
        grad_transforms: Applied in order before each optimiser step; the list may still grow.
    """

    name = "eager"

    def __init__(
        self,
        online: QNetwork,
        target: QNetwork,
        objective: Objective,
        optimizer: Optimizer,
        grad_transforms: Sequence[GradTransform],
    ) -> None:
        self.online = online
        self.target = target
        self.objective = objective
        self.optimizer = optimizer
        self.grad_transforms = grad_transforms
        self.parameters = [p for p in online.parameters() if p.requires_grad]

    def update(self, batch: Batch, draws: Draws | None = None) -> ObjectiveOutput:
        """Take one optimiser step on a batch; gives its detached loss [B] and priority [B]."""
        output, ours = self.differentiate(batch, draws)
        gradients = ranks.mean(ours)
        for transform in self.grad_transforms:
            gradients = transform(gradients)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return output

    def differentiate(
        self, batch: Batch, draws: Draws | None = None
    ) -> tuple[ObjectiveOutput, Sequence[Tensor]]:
        """The batch's detached loss [B] and priority [B], and the gradients of its mean loss."""
        self.online.switch(training=True)
        self.target.switch(training=False)
        random = () if draws is None else (draws,)  # an objective of somebody's may know of none
        output = self.objective(self.online, self.target, batch, *random)
        loss = (batch.weight * output.loss).mean()
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return ObjectiveOutput(output.loss.detach(), output.priority), gradients

    def close(self) -> None:
        """Let go of what it holds: nothing."""
