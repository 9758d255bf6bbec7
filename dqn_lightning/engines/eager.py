"""Reference engine, which executes updates eagerly."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from dqn_lightning import distributed
from dqn_lightning.losses import Objective, ObjectiveOutput
from dqn_lightning.networks import QNetwork
from dqn_lightning.types import Batch, UpdateNoise

GradTransform: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
"""Function that maps the gradients, in the order of the parameters, to transformed gradients."""


class Eager:
    """Reference engine, which executes every operation of an update eagerly.

    An update computes the loss and its gradients, averages the gradients over ranks, applies the
    gradient transforms and takes an optimizer step.

    Args:
        online: Network to train.
        target: Network that computes the targets; always in evaluation mode.
        objective: Function that computes the loss and the priority for each transition.
        optimizer: Optimizer for the online network's parameters.
        grad_transforms: Functions applied to the gradients, in order, before each optimizer step;
            the list may be changed between updates.
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

    def update(self, batch: Batch, noise: UpdateNoise | None = None) -> ObjectiveOutput:
        """Take one optimizer step on a batch; return the detached losses [B] and priorities [B]."""
        output, own_gradients = self.differentiate(batch, noise)
        gradients = distributed.all_reduce_mean(own_gradients)
        for transform in self.grad_transforms:
            gradients = transform(gradients)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return output

    def differentiate(
        self, batch: Batch, noise: UpdateNoise | None = None
    ) -> tuple[ObjectiveOutput, Sequence[Tensor]]:
        """Compute the losses, priorities and gradients for a batch.

        Returns:
            Detached losses [B] and priorities [B], and the gradient of the mean weighted loss with
            respect to each parameter.
        """
        self.online.set_mode(training=True)
        self.target.set_mode(training=False)
        noise_argument = () if noise is None else (noise,)  # custom objectives may not accept it
        output = self.objective(self.online, self.target, batch, *noise_argument)
        loss = (batch.weight * output.loss).mean()
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return ObjectiveOutput(output.loss.detach(), output.priority), gradients

    def close(self) -> None:
        """Do nothing; eager execution does not convert the optimizer's state."""
