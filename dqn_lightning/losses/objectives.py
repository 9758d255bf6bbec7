"""Objectives, which compute losses and priorities for a batch from the networks' outputs."""

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
from dqn_lightning.types import Batch, Categorical, PassNoise, Quantiles, QValues, UpdateNoise

_NO_NOISE = UpdateNoise()


class ObjectiveOutput(NamedTuple):
    """Output of an objective, one value per row of the batch.

    Attributes:
        loss: Losses [B], not multiplied by the importance weights.
        priority: Priorities [B] for prioritized replay, without gradient.
    """

    loss: Tensor
    priority: Tensor


class Objective(Protocol):
    """Interface for objectives, which compute losses and priorities from two networks and a batch.

    An objective may define three attributes: `head`, a factory for the default head, called with
    the number of features and the number of actions; `output`, the type of output that the head
    must return; `max_n_step`, the largest n supported for n-step returns, or None if there is no
    limit.

    A class that declares `is_pure: ClassVar[bool] = True` promises that `__call__` depends only on
    the networks, the batch and the noise, and on no other state that changes. An engine may record
    one call of a pure objective and repeat only the recorded tensor operations in later updates.
    All other objectives are executed eagerly. A subclass that overrides `__call__` must repeat the
    declaration.
    """

    def __call__(
        self, online: nn.Module, target: nn.Module, batch: Batch, noise: UpdateNoise = _NO_NOISE
    ) -> ObjectiveOutput:
        """Return the loss and the priority for each row of the batch.

        Args:
            online: Network being trained; maps observations and a `PassNoise` to the head's output.
            target: Target network, called in the same way.
            batch: Transitions.
            noise: Random inputs for each forward pass; passed only if the network is noisy or
                samples taus.
        """
        ...


@dataclass(frozen=True)
class Munchausen:
    """Settings for Munchausen Q-learning (Vieillard, Pietquin and Geist 2020).

    The term alpha max(temperature ln pi(a | s), clip) is added to the reward for the action a that
    was taken, and targets use the soft value (see `functional.soft_value`). The policy pi is the
    softmax of the target network's action values divided by the temperature.

    Args:
        alpha: Weight of the added term, in [0, 1]; 0 disables it.
        temperature: Temperature of the policy, positive.
        clip: Lower bound on temperature ln pi(a | s), negative.

    Raises:
        ConfigError: If a setting is out of range.
    """

    alpha: float = 0.9
    temperature: float = 0.03
    clip: float = -1.0

    def __post_init__(self) -> None:
        """Validate the settings."""
        name = "model.objective.munchausen"
        if not 0 < self.temperature < inf:
            raise ConfigError(f"{name}.temperature: must be positive, got {self.temperature}")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"{name}.alpha: must lie in [0, 1], got {self.alpha}")
        if not self.clip < 0:
            raise ConfigError(f"{name}.clip: must be negative, got {self.clip}")


@dataclass(frozen=True)
class DQN:
    """Deep Q-learning: regress Q(s, a) to r + discount max_a' Q_target(s', a') (Mnih et al. 2015).

    The priority is the absolute temporal difference.

    Args:
        loss: Loss applied to the temporal difference: `huber`, whose derivative is the error
            clipped to [-1, 1] as in the paper, or `squared`.
        double: Whether the online network selects the next action (double Q-learning, van Hasselt,
            Guez and Silver 2016).
        rescaled: Whether the network predicts rescaled returns (Pohlen et al. 2018); see
            `functional.rescale`.
        munchausen: Settings for Munchausen Q-learning; null to disable it.

    Raises:
        ConfigError: If `munchausen` is combined with `double` or `rescaled`.
    """

    is_pure: ClassVar[bool] = True
    head: ClassVar[Callable[..., nn.Module]] = ValueHead
    output: ClassVar[type] = QValues

    loss: Literal["huber", "squared"] = "huber"
    double: bool = False
    rescaled: bool = False
    munchausen: Munchausen | None = None

    def __post_init__(self) -> None:
        """Reject unsupported combinations of settings."""
        _check_double(self.double, self.munchausen)
        if self.rescaled and self.munchausen is not None:
            raise ConfigError(
                "model.objective: munchausen and rescaled cannot be combined, because the "
                "Munchausen term is not defined for rescaled values; use one of them"
            )

    @property
    def max_n_step(self) -> int | None:
        """Largest n supported for n-step returns; None if there is no limit."""
        return _max_n_step(self.munchausen)

    def __call__(
        self, online: nn.Module, target: nn.Module, batch: Batch, noise: UpdateNoise = _NO_NOISE
    ) -> ObjectiveOutput:
        """Return the loss and the priority for each row of the batch; see `Objective`."""
        q_tm1 = online(batch.obs, noise.online).q_values  # [B, A]
        with torch.no_grad():
            q_t = target(batch.next_obs, noise.target).q_values  # [B, A]
        transition = (q_tm1, batch.action, batch.reward, batch.discount, q_t)
        if self.munchausen is not None:
            with torch.no_grad():
                q_tm1_target = target(batch.obs, noise.target).q_values  # [B, A]
            settings = vars(self.munchausen)
            error = functional.munchausen_q_learning(*transition, q_tm1_target, **settings)
        elif self.double:
            with torch.no_grad():
                q_t_selector = online(batch.next_obs, noise.selector).q_values  # [B, A]
            error = functional.double_q_learning(*transition, q_t_selector, self.rescaled)
        else:
            error = functional.q_learning(*transition, self.rescaled)
        loss = functional.huber(error) if self.loss == "huber" else functional.squared(error)
        return ObjectiveOutput(loss, error.detach().abs())


@dataclass(frozen=True)
class C51:
    """Categorical DQN (C51): learn a categorical distribution of the return.

    Bellemare, Dabney and Munos 2017. The loss is the cross-entropy between the projected target
    distribution and the prediction. The priority equals the loss, as in Hessel et al. 2018
    (Rainbow).

    Args:
        num_atoms: Number of atoms of the default head, at least 2.
        v_min: Lowest atom (return) of the default head.
        v_max: Highest atom (return) of the default head.
        double: Whether the online network selects the next action (double Q-learning).

    Raises:
        ConfigError: If there are fewer than two atoms, or `v_min` is not less than `v_max`.
    """

    is_pure: ClassVar[bool] = True
    output: ClassVar[type] = Categorical

    num_atoms: int = 51
    v_min: float = -10.0
    v_max: float = 10.0
    double: bool = False

    def __post_init__(self) -> None:
        """Validate the atoms."""
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
        """Factory for the default head, called with the numbers of features and actions."""
        return partial(
            CategoricalHead, num_atoms=self.num_atoms, v_min=self.v_min, v_max=self.v_max
        )

    def __call__(
        self, online: nn.Module, target: nn.Module, batch: Batch, noise: UpdateNoise = _NO_NOISE
    ) -> ObjectiveOutput:
        """Return the loss and the priority for each row of the batch; see `Objective`."""
        tm1: Categorical = online(batch.obs, noise.online)
        with torch.no_grad():
            t: Categorical = target(batch.next_obs, noise.target)
            selector = online(batch.next_obs, noise.selector) if self.double else t
        loss = distributional.categorical_q_learning(
            _at_least_float32(tm1.logits),
            batch.action,
            batch.reward,
            batch.discount,
            _at_least_float32(t.logits).softmax(-1),
            selector.q_values,
            t.atoms,
        )
        return ObjectiveOutput(loss, loss.detach())


@dataclass(frozen=True)
class _QuantileRegression:
    """Objective that learns quantiles of the return; base class of `QRDQN` and `IQN`.

    The two subclasses differ only in their default heads.
    """

    is_pure: ClassVar[bool] = True
    output: ClassVar[type] = Quantiles

    kappa: float = 1.0
    double: bool = False
    munchausen: Munchausen | None = None

    def __post_init__(self) -> None:
        """Reject unsupported combinations of settings and values out of range."""
        _check_double(self.double, self.munchausen)
        for name, value in vars(self).items():
            if name.startswith("num_") and value < 1:
                raise ConfigError(f"model.objective.{name}: must be at least 1, got {value}")
        if not 0 <= self.kappa < inf:
            raise ConfigError(
                f"model.objective.kappa: must be finite and not negative, got {self.kappa}"
            )

    @property
    def max_n_step(self) -> int | None:
        """Largest n supported for n-step returns; None if there is no limit."""
        return _max_n_step(self.munchausen)

    def __call__(
        self, online: nn.Module, target: nn.Module, batch: Batch, noise: UpdateNoise = _NO_NOISE
    ) -> ObjectiveOutput:
        """Return the loss and the priority for each row of the batch; see `Objective`."""
        tm1: Quantiles = online(batch.obs, noise.online)
        with torch.no_grad():
            t: Quantiles = target(batch.next_obs, noise.target)
            q_t = self._selector_values(online, target, batch, noise, t)  # [B, A]
        transition = (tm1.quantiles, tm1.taus, batch.action)
        if self.munchausen is None:
            loss, error = distributional.quantile_q_learning(
                *transition, batch.reward, batch.discount, t.quantiles, q_t, self.kappa
            )
        else:
            with torch.no_grad():
                q_tm1_target = target(batch.obs, _without_taus(noise.target)).q_values
            bonus = functional.munchausen_bonus(q_tm1_target, batch.action, **vars(self.munchausen))
            soft = distributional.soft_quantiles(t.quantiles, q_t, self.munchausen.temperature)
            targets = (batch.reward + bonus)[:, None] + batch.discount[:, None] * soft  # [B, K]
            loss, error = distributional.quantile_regression(*transition, targets, self.kappa)
        return ObjectiveOutput(loss, error.abs())

    def _selector_values(
        self, online: nn.Module, target: nn.Module, batch: Batch, noise: UpdateNoise, t: Quantiles
    ) -> Tensor:
        """Return the action values [B, A] that select the next action.

        For double Q-learning, these are the online network's values, otherwise the target
        network's. Both are computed at fixed taus. `t` is the target network's output at the next
        observations.
        """
        if self.double:
            selector: Quantiles = online(batch.next_obs, noise.selector)
            return selector.q_values
        if t.taus.ndim == 1:
            return t.q_values
        # Sampled taus: selecting and evaluating with the same sample would overestimate, so select
        # with the head's fixed taus.
        at_fixed_taus: Quantiles = target(batch.next_obs, _without_taus(noise.target))
        return at_fixed_taus.q_values


@dataclass(frozen=True)
class QRDQN(_QuantileRegression):
    """QR-DQN: learn quantiles of the return at fixed taus (Dabney et al. 2018a).

    The taus are the probabilities of the quantiles. The priority is the absolute difference between
    the means of target and prediction; the paper defines no priority.

    Args:
        kappa: Absolute error above which the quantile Huber loss is linear; 0 for plain quantile
            regression.
        double: Whether the online network selects the next action (double Q-learning).
        munchausen: Settings for Munchausen Q-learning; null to disable it.
        num_quantiles: Number of quantiles of the default head.

    Raises:
        ConfigError: If `munchausen` is combined with `double`, or a setting is out of range.
    """

    num_quantiles: int = 200

    @property
    def head(self) -> Callable[..., nn.Module]:
        """Factory for the default head, called with the numbers of features and actions."""
        return partial(QuantileHead, num_quantiles=self.num_quantiles)


@dataclass(frozen=True)
class IQN(_QuantileRegression):
    """IQN: learn quantiles of the return at uniformly sampled taus (Dabney et al. 2018b).

    The taus are the probabilities of the quantiles. The next action maximizes the mean of the
    quantiles at fixed taus, whereas the paper samples taus here too. The priority is the absolute
    difference between the means of target and prediction; the paper defines no priority.

    Args:
        kappa: Absolute error above which the quantile Huber loss is linear; 0 for plain quantile
            regression.
        double: Whether the online network selects the next action (double Q-learning).
        munchausen: Settings for Munchausen Q-learning (M-IQN); null to disable it.
        num_taus: Number of taus sampled per row, separately for predictions and targets.
        num_acting_taus: Number of fixed taus for selecting actions.

    Raises:
        ConfigError: If `munchausen` is combined with `double`, or a setting is out of range.
    """

    num_taus: int = 8
    num_acting_taus: int = 32

    @property
    def head(self) -> Callable[..., nn.Module]:
        """Factory for the default head, called with the numbers of features and actions."""
        return partial(
            ImplicitQuantileHead,
            num_taus=self.num_taus,
            num_acting_taus=self.num_acting_taus,
        )


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or unchanged if its dtype is more precise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _without_taus(noise: PassNoise | None) -> PassNoise | None:
    """Return a copy of the noise without taus; the head then uses its fixed taus."""
    return None if noise is None else noise._replace(taus=None)


def _check_double(double: bool, munchausen: Munchausen | None) -> None:
    if double and munchausen is not None:
        raise ConfigError(
            "model.objective: double and munchausen cannot be combined, because Munchausen targets "
            "average over all actions instead of selecting one; use one of them"
        )


def _max_n_step(munchausen: Munchausen | None) -> int | None:
    """Return 1 for Munchausen Q-learning, which is defined for one-step returns only, else None."""
    return None if munchausen is None else 1
