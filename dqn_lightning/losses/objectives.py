"""Objectives: what an update makes smaller."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dqn_lightning.losses import functional
from dqn_lightning.types import Batch


class ObjectiveOutput(NamedTuple):
    """Per row of the batch: the unweighted loss [B] and the priority [B]; no mean is taken."""

    loss: Tensor
    priority: Tensor


class Objective(Protocol):
    """Compares an online with a target network on a batch."""

    def __call__(self, online: nn.Module, target: nn.Module, batch: Batch) -> ObjectiveOutput:
        """The loss and the priority of each row."""
        ...


@dataclass(frozen=True)
class DQN:
    """Deep Q-learning (Mnih et al. 2015): Q(s, a) towards r + discount max_a Q_target(s', a).

    The priority is the absolute temporal difference.

    Args:
        loss: `huber`, whose derivative is the error clipped to [-1, 1] as in the paper, or
            `squared`.
        double: Whether the online network chooses the action that the target network values
            (van Hasselt, Guez and Silver 2016).
    """

    loss: Literal["huber", "squared"] = "huber"
    double: bool = False

    def __call__(self, online: nn.Module, target: nn.Module, batch: Batch) -> ObjectiveOutput:
        """The loss and the priority of each row."""
        q_tm1 = online(batch.obs).q_values  # [B, A]
        with torch.no_grad():
            q_t = target(batch.next_obs).q_values  # [B, A]
        transition = (q_tm1, batch.action, batch.reward, batch.discount, q_t)
        if self.double:
            with torch.no_grad():
                q_t_selector = online(batch.next_obs).q_values  # [B, A]
            error = functional.double_q_learning(*transition, q_t_selector)
        else:
            error = functional.q_learning(*transition)
        loss = functional.huber(error) if self.loss == "huber" else functional.squared(error)
        return ObjectiveOutput(loss, error.detach().abs())
