"""Objectives: what an update makes smaller."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dqn_lightning.errors import ConfigError
from dqn_lightning.losses import distributional, functional
from dqn_lightning.networks import (
    CategoricalHead,
    ImplicitQuantileHead,
    QuantileHead,
    ValueHead,
)
from dqn_lightning.types import Batch, Categorical, Draw, Draws, Quantiles, QValues

_NO_DRAWS = Draws()


class ObjectiveOutput(NamedTuple):
    """Per row of the batch: the unweighted loss [B] and the priority [B]; no mean is taken."""

    loss: Tensor
    priority: Tensor


class Objective(Protocol):
    """Compares an online with a target network on a batch.

    It may have three attributes: `head`, which makes the head it needs of a number of features and
    of actions; `output`, the type that such a head gives; `max_n_step`, the greatest n of a return
    that it is defined for, or None.
    """

    def __call__(
        self, online: nn.Module, target: nn.Module, batch: Batch, draws: Draws = _NO_DRAWS
    ) -> ObjectiveOutput:
        """The loss and the priority of each row.

        Args:
            online: The network that learns: observations and a `Draw` → the head's output.
            target: The one that targets come from.
            batch: Transitions.
            draws: What is random in each pass through a network; given where anything is.
        """
        ...


@dataclass(frozen=True)
class Munchausen:
    """A reward for what the policy thinks of its action, and entropy (Vieillard et al. 2020).

    The policy is the softmax of the target network's values divided by the temperature.

    Args:
        alpha: Weight of the logarithm of the action's probability in the reward.
        temperature: That of the policy.
        clip: The least that temperature times that logarithm counts for.
    """

    alpha: float = 0.9
    temperature: float = 0.03
    clip: float = -1.0

    def __post_init__(self) -> None:
        """Refuse what is no policy, and what would do nothing."""
        name = "model.objective.munchausen"
        if not 0 < self.temperature < inf:
            raise ConfigError(f"{name}.temperature: must be positive, got {self.temperature}")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"{name}.alpha: must lie in [0, 1], got {self.alpha}")
        if not self.clip < 0:
            raise ConfigError(f"{name}.clip: must be negative, got {self.clip}")


@dataclass(frozen=True)
class DQN:
    """Deep Q-learning (Mnih et al. 2015): Q(s, a) towards r + discount max_a Q_target(s', a).

    The priority is the absolute temporal difference.

    Args:
        loss: `huber`, whose derivative is the error clipped to [-1, 1] as in the paper, or
            `squared`.
        double: Whether the online network chooses the action that the target network values
            (van Hasselt, Guez and Silver 2016).
        rescaled: Whether values are those of h(return), a root but for sign (Pohlen et al. 2018).
        munchausen: Whether to learn with the policy's own reward, and how.

    Raises:
        ConfigError: If switches are combined that exclude each other.
    """

    head: ClassVar[Callable[..., nn.Module]] = ValueHead
    output: ClassVar[type] = QValues

    loss: Literal["huber", "squared"] = "huber"
    double: bool = False
    rescaled: bool = False
    munchausen: Munchausen | None = None

    def __post_init__(self) -> None:
        """Refuse what no paper defines."""
        _refuse_double(self.double, self.munchausen)
        if self.rescaled and self.munchausen is not None:
            raise ConfigError(
                "model.objective: munchausen adds to rewards what rescaled values would need "
                "unscaled; use one of them"
            )

    @property
    def max_n_step(self) -> int | None:
        """The greatest n of a return that it is defined for; None for any."""
        return _max_n_step(self.munchausen)

    def __call__(
        self, online: nn.Module, target: nn.Module, batch: Batch, draws: Draws = _NO_DRAWS
    ) -> ObjectiveOutput:
        """The loss and the priority of each row."""
        q_tm1 = online(batch.obs, draws.online).q_values  # [B, A]
        with torch.no_grad():
            q_t = target(batch.next_obs, draws.target).q_values  # [B, A]
        transition = (q_tm1, batch.action, batch.reward, batch.discount, q_t)
        if self.munchausen is not None:
            with torch.no_grad():
                q_tm1_target = target(batch.obs, draws.target).q_values  # [B, A]
            settings = vars(self.munchausen)
            error = functional.munchausen_q_learning(*transition, q_tm1_target, **settings)
        elif self.double:
            with torch.no_grad():
                q_t_selector = online(batch.next_obs, draws.selector).q_values  # [B, A]
            error = functional.double_q_learning(*transition, q_t_selector, self.rescaled)
        else:
            error = functional.q_learning(*transition, self.rescaled)
        loss = functional.huber(error) if self.loss == "huber" else functional.squared(error)
        return ObjectiveOutput(loss, error.detach().abs())


@dataclass(frozen=True)
class C51:
    """Learns the distribution of returns as probabilities of fixed ones (Bellemare et al. 2017).

    The loss is the cross entropy to the projected distribution of the next state, and so is the
    priority, as in Hessel et al. 2018.

    Args:
        num_atoms: Number of returns of the head that it brings.
        v_min: The least of them.
        v_max: The greatest.
        double: Whether the online network chooses the next action.
    """

    output: ClassVar[type] = Categorical

    num_atoms: int = 51
    v_min: float = -10.0
    v_max: float = 10.0
    double: bool = False

    def __post_init__(self) -> None:
        """Refuse atoms that are none."""
        if self.num_atoms < 2:
            raise ConfigError(
                f"model.objective.num_atoms: must be at least 2, got {self.num_atoms}"
            )
        if not -inf < self.v_min < self.v_max < inf:
            raise ConfigError(
                f"model.objective.v_min: must be less than v_max, got {self.v_min} and {self.v_max}"
            )

    @property
    def head(self) -> Callable[..., nn.Module]:
        """Makes the head."""
        return partial(
            CategoricalHead, num_atoms=self.num_atoms, v_min=self.v_min, v_max=self.v_max
        )

    def __call__(
        self, online: nn.Module, target: nn.Module, batch: Batch, draws: Draws = _NO_DRAWS
    ) -> ObjectiveOutput:
        """The loss and the priority of each row."""
        tm1: Categorical = online(batch.obs, draws.online)
        with torch.no_grad():
            t: Categorical = target(batch.next_obs, draws.target)
            selector = online(batch.next_obs, draws.selector) if self.double else t
        loss = distributional.categorical_q_learning(
            tm1.logits.float(),
            batch.action,
            batch.reward,
            batch.discount,
            t.logits.float().softmax(-1),
            selector.q_values,
            t.atoms,
        )
        return ObjectiveOutput(loss, loss.detach())


@dataclass(frozen=True)
class _QuantileRegression:
    """What the objectives of quantiles have in common: all but the head."""

    output: ClassVar[type] = Quantiles

    kappa: float = 1.0
    double: bool = False
    munchausen: Munchausen | None = None

    def __post_init__(self) -> None:
        """Refuse what no paper defines, and numbers that mean nothing."""
        _refuse_double(self.double, self.munchausen)
        for name, value in vars(self).items():
            if name.startswith("num_") and value < 1:
                raise ConfigError(f"model.objective.{name}: must be at least 1, got {value}")
        if not 0 <= self.kappa < inf:
            raise ConfigError(f"model.objective.kappa: must not be negative, got {self.kappa}")

    @property
    def max_n_step(self) -> int | None:
        """The greatest n of a return that it is defined for; None for any."""
        return _max_n_step(self.munchausen)

    def __call__(
        self, online: nn.Module, target: nn.Module, batch: Batch, draws: Draws = _NO_DRAWS
    ) -> ObjectiveOutput:
        """The loss and the priority of each row."""
        tm1: Quantiles = online(batch.obs, draws.online)
        with torch.no_grad():
            t: Quantiles = target(batch.next_obs, draws.target)
            q_t = self._selector(online, target, batch, draws, t)  # [B, A]
        transition = (tm1.quantiles, tm1.fractions, batch.action)
        if self.munchausen is None:
            loss, error = distributional.quantile_q_learning(
                *transition, batch.reward, batch.discount, t.quantiles, q_t, self.kappa
            )
        else:
            with torch.no_grad():
                q_tm1_target = target(batch.obs, _without_fractions(draws.target)).q_values
            bonus = functional.munchausen_bonus(q_tm1_target, batch.action, **vars(self.munchausen))
            soft = distributional.soft_quantiles(t.quantiles, q_t, self.munchausen.temperature)
            targets = (batch.reward + bonus)[:, None] + batch.discount[:, None] * soft  # [B, K]
            loss, error = distributional.quantile_regression(*transition, targets, self.kappa)
        return ObjectiveOutput(loss, error.abs())

    def _selector(
        self, online: nn.Module, target: nn.Module, batch: Batch, draws: Draws, t: Quantiles
    ) -> Tensor:
        """Action values that the next action is chosen by [B, A]."""
        if self.double:
            chooser: Quantiles = online(batch.next_obs, draws.selector)
            return chooser.q_values
        if t.fractions.ndim == 1:
            return t.q_values
        # Fractions were drawn: what chooses must not be what values, so it is at fixed ones.
        fixed: Quantiles = target(batch.next_obs, _without_fractions(draws.target))
        return fixed.q_values


@dataclass(frozen=True)
class QRDQN(_QuantileRegression):
    """Learns quantiles of the return at fixed fractions (QR-DQN, Dabney et al. 2018a).

    The priority is the absolute temporal difference of the means, which the paper leaves open.

    Args:
        kappa: Up to which error the loss is a square; 0 for never.
        double: Whether the online network chooses the next action.
        munchausen: Whether to learn with the policy's own reward, and how.
        num_quantiles: Number of quantiles of the head that it brings.

    Raises:
        ConfigError: If switches are combined that exclude each other.
    """

    num_quantiles: int = 200

    @property
    def head(self) -> Callable[..., nn.Module]:
        """Makes the head."""
        return partial(QuantileHead, num_quantiles=self.num_quantiles)


@dataclass(frozen=True)
class IQN(_QuantileRegression):
    """Learns quantiles of the return at random fractions (IQN, Dabney et al. 2018b).

    The next action is the best by the mean over fixed fractions. The priority is the absolute
    temporal difference of the means, which the paper leaves open.

    Args:
        kappa: Up to which error the loss is a square; 0 for never.
        double: Whether the online network chooses the next action.
        munchausen: Whether to learn with the policy's own reward, and how (M-IQN of the paper).
        num_fractions: Fractions drawn for each row, for values and for targets.
        num_acting_fractions: Fractions that actions are chosen by.

    Raises:
        ConfigError: If switches are combined that exclude each other.
    """

    num_fractions: int = 8
    num_acting_fractions: int = 32

    @property
    def head(self) -> Callable[..., nn.Module]:
        """Makes the head."""
        return partial(
            ImplicitQuantileHead,
            num_fractions=self.num_fractions,
            num_acting_fractions=self.num_acting_fractions,
        )


def _without_fractions(draw: Draw | None) -> Draw | None:
    return None if draw is None else draw._replace(fractions=None)


def _refuse_double(double: bool, munchausen: Munchausen | None) -> None:
    if double and munchausen is not None:
        raise ConfigError(
            "model.objective: double is about the choice of the next action, munchausen chooses "
            "none; use one of them"
        )


def _max_n_step(munchausen: Munchausen | None) -> int | None:
    """The paper adds the policy's reward of one step; of more it says nothing."""
    return None if munchausen is None else 1
