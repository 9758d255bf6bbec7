"""Engine that is rebuilt when a callback replaces layers, hooks or tensors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dqn_lightning import distributed
from dqn_lightning.engines.choice import Engine, EngineName, make_engine
from dqn_lightning.engines.eager import GradTransform
from dqn_lightning.engines.optimizer_step import state_tensors
from dqn_lightning.internals.pytorch import count_forward_hooks
from dqn_lightning.losses import Objective, ObjectiveOutput
from dqn_lightning.networks import QNetwork
from dqn_lightning.types import Batch, UpdateNoise


class RebuildingEngine:
    """Engine that delegates to another engine, and can rebuild that engine.

    Engines rely on the identity of layers and on the memory addresses of parameters, buffers and
    optimizer state. After a callback has replaced any of these objects, `rebuild_if_replaced`
    builds a new engine.

    Args:
        name: Name of the engine to delegate to, or `auto` for the fastest one.
        device: Device that the parameters are on.
        online: Network to train.
        target: Network that computes the targets.
        objective: Function that computes the loss and the priority for each transition.
        optimizer: Optimizer for the online network's parameters.
        grad_transforms: Functions applied to the gradients, in order, before each optimizer step.
    """

    def __init__(
        self,
        name: EngineName,
        device: torch.device,
        online: QNetwork,
        target: QNetwork,
        objective: Objective,
        optimizer: Optimizer,
        grad_transforms: list[GradTransform],
    ) -> None:
        self._parts: tuple[Any, ...] = (online, target, objective, optimizer, grad_transforms)
        self._networks = (online, target)
        self._optimizer = optimizer
        self._make: Callable[[], Engine] = partial(make_engine, name, device, *self._parts)
        self._engine = self._make()
        self.remember_tensors()

    @property
    def name(self) -> str:
        """Name of the engine in use."""
        return self._engine.name

    def update(self, batch: Batch, noise: UpdateNoise | None = None) -> ObjectiveOutput:
        """Take one optimizer step on a batch; return the detached losses [B] and priorities [B]."""
        return self._engine.update(batch, noise)

    def close(self) -> None:
        """Convert the optimizer's state back to its original form, which every engine can use."""
        self._engine.close()

    def rebuild_if_replaced(self) -> bool:
        """Rebuild the engine if a layer, hook or tensor was replaced since `remember_tensors`.

        All ranks must call this method together; if one rank rebuilds its engine, all do.

        Returns:
            Whether the engine was rebuilt.
        """
        was_replaced = self._find_tensors() != self._remembered
        if not distributed.all_reduce_max(was_replaced):
            return False
        self._engine.close()
        self._engine = self._make()
        self.remember_tensors()
        return True

    def remember_tensors(self) -> None:
        """Store the identity of the current layers, hooks and tensors, to detect replacements."""
        self._remembered = self._find_tensors()

    def _find_tensors(self) -> tuple[Any, ...]:
        """Return the identity and hook count of each layer, and the addresses of all tensors."""
        layers = [layer for network in self._networks for layer in network.modules()]
        hooks = [(id(layer), count_forward_hooks(layer)) for layer in layers]
        tensors: list[Tensor] = []
        for network in self._networks:
            tensors += [*network.parameters(), *network.buffers()]
        tensors += state_tensors(self._optimizer)
        return hooks, [tensor.data_ptr() for tensor in tensors]
