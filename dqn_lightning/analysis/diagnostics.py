"""Diagnostics of a training run, computed from visited states, activations and parameters.

`docs/diagnostics.md` explains how to interpret the diagnostics.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from dqn_lightning.interaction.collector import Collector
from dqn_lightning.losses import Objective
from dqn_lightning.networks import QNetwork
from dqn_lightning.types import Batch, UpdateNoise

_RECORDED_COLUMNS = ("reward", "terminated", "truncated", "is_reset")


class ReturnsToGo(NamedTuple):
    """Discounted returns from each of T recorded steps in N environments.

    Attributes:
        returns: Discounted sums [T, N] of the recorded rewards from each step to the end of its
            episode.
        tail_discounts: Discount factors [T, N] of the rewards that were not recorded, because the
            episode was truncated or continues after the last recorded step; 0 if the episode
            terminated.
    """

    returns: NDArray[np.float64]
    tail_discounts: NDArray[np.float64]


def returns_to_go(
    reward: NDArray[Any], terminated: NDArray[Any], truncated: NDArray[Any], gamma: float
) -> ReturnsToGo:
    """Compute the discounted returns from T recorded steps of N environments.

    Within an episode, `returns[t] = reward[t] + gamma * returns[t + 1]`. Each environment may have
    several episodes. If an episode was truncated or continues after step T - 1, its later rewards
    are unknown: the tail discount at step t is then gamma^k, where k is the number of recorded
    steps of the episode from t on.

    Args:
        reward: Rewards [T, N].
        terminated: Flags [T, N], True for steps in which an episode terminated.
        truncated: Flags [T, N], True for steps in which an episode was truncated.
        gamma: Discount factor per step.

    >>> one = np.ones((2, 2))
    >>> terminated = np.array([[False, False], [True, False]])
    >>> both = returns_to_go(one, terminated, np.zeros_like(terminated), gamma=0.5)
    >>> both.returns.tolist(), both.tail_discounts.tolist()
    ([[1.5, 1.5], [1.0, 1.0]], [[0.0, 0.25], [0.0, 0.5]])
    """
    returns, tail_discounts = np.zeros(reward.shape), np.zeros(reward.shape)
    to_go, tail = np.zeros(reward.shape[1]), np.ones(reward.shape[1])
    for t in reversed(range(len(reward))):
        ended = terminated[t] | truncated[t]
        to_go = reward[t] + gamma * np.where(ended, 0.0, to_go)
        tail = gamma * np.where(terminated[t], 0.0, np.where(truncated[t], 1.0, tail))
        returns[t], tail_discounts[t] = to_go, tail
    return ReturnsToGo(returns, tail_discounts)


class StateRecorder:
    """Recorder for the states visited during an evaluation and the rewards received after them.

    A vector step is one step of all environments. When the maximum number of states is exceeded,
    the states of every second recorded vector step are dropped, so the remaining states are evenly
    spaced in time.

    Args:
        num_states: Maximum number of states. The states of at least one vector step are always
            kept, even if this exceeds the maximum.
    """

    def __init__(self, num_states: int) -> None:
        self.num_states = num_states
        self._columns: dict[str, list[NDArray[Any]]] = {name: [] for name in _RECORDED_COLUMNS}
        self._obs: dict[int, Tensor] = {}  # number of the vector step → observations [N, …]
        self._period = 1  # vector steps between two kept ones

    def record(self, collector: Collector) -> None:
        """Record the newest vector step of a collector, and the observations after this step."""
        replay = collector.replay
        for name, steps in self._columns.items():
            steps.append(replay.newest(name).copy())
        number = len(self._columns["reward"])
        if number % self._period:
            return
        self._obs[number] = torch.as_tensor(replay.current_obs()).clone()
        while len(self._obs) > max(1, self.num_states // replay.num_envs):
            self._period *= 2
            self._obs = {t: obs for t, obs in self._obs.items() if t % self._period == 0}

    def finish(self, gamma: float) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64]]:
        """Return the recorded states, with the discounted return from each state.

        Final states of episodes are omitted, because no action is taken in them.

        Args:
            gamma: Discount factor per step.

        Returns:
            Observations [n, …], returns [n] and tail discounts [n]; see `ReturnsToGo`.
        """
        reward, terminated, truncated, is_reset = (
            np.stack(self._columns[name]) for name in _RECORDED_COLUMNS
        )
        to_go = returns_to_go(reward, terminated, truncated, gamma)
        times = [t for t in self._obs if t < len(reward)]  # no reward follows the last state
        if not times:
            return torch.empty(0), np.empty(0), np.empty(0)
        acted = ~is_reset[times]
        obs = torch.stack([self._obs[t] for t in times])[torch.from_numpy(acted)]
        return obs, to_go.returns[times][acted], to_go.tail_discounts[times][acted]


def dormant_share(activations: Iterable[Tensor], threshold: float = 0.1) -> float:
    """Return the fraction of dormant units among the units of all layers (Sokar et al. 2023).

    The score of a unit is its mean absolute activation divided by the mean absolute activation of
    its layer. A unit is dormant if its score does not exceed the threshold. Each channel of a
    convolutional layer counts as one unit.

    Args:
        activations: Activations of each layer, [B, units] or [B, channels, …].
        threshold: Maximum score of a dormant unit; 0.1 in the paper.

    >>> dormant_share([torch.tensor([[1.0, 0.0], [3.0, 0.1]])])
    0.5
    """
    num_dormant = num_units = 0
    for activation in activations:
        score = activation.abs().flatten(2).mean(2) if activation.ndim > 2 else activation.abs()
        score = score.mean(0)
        num_dormant += int((score <= threshold * score.mean()).sum())
        num_units += len(score)
    return num_dormant / num_units if num_units else 0.0


def effective_rank(features: Tensor, share: float = 0.99) -> float:
    """Return the effective rank of a feature matrix (Kumar et al. 2021).

    The effective rank is the smallest k for which the k largest singular values account for at
    least the given share of the sum of all singular values. It is NaN if a feature is not finite.

    Args:
        features: Features [B, D].
        share: Share of the sum of all singular values; 0.99 in the paper.

    >>> effective_rank(torch.diag(torch.tensor([6.0, 3.0, 1.0])), share=0.8)
    2.0
    """
    if not torch.isfinite(features).all():
        return float("nan")
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()  # half precision has no singular values
    sums = torch.linalg.svdvals(features).cumsum(0)
    return float((sums < share * sums[-1]).sum()) + 1


def normalized_entropy(probabilities: NDArray[np.float64]) -> float:
    """Return the entropy of a distribution, divided by the log of its number of nonzero elements.

    The result is in [0, 1]. It is 1 if all nonzero probabilities are equal, or if there is only
    one.

    Args:
        probabilities: Probabilities [n] that sum to 1.

    >>> normalized_entropy(np.array([0.25, 0.25, 0.0, 0.25, 0.25]))
    1.0
    """
    positive = probabilities[probabilities > 0]
    if len(positive) < 2:
        return 1.0
    return float(-(positive * np.log(positive)).sum() / np.log(len(positive)))


@torch.no_grad()
def relative_distance(online: nn.Module, target: nn.Module) -> float:
    """Return ‖online - target‖ / ‖online‖ (Euclidean norms) for the parameters of two networks."""
    online_vector, target_vector = (
        parameters_to_vector(network.parameters()) for network in (online, target)
    )
    distance = torch.linalg.vector_norm(online_vector - target_vector)
    return float(distance / torch.linalg.vector_norm(online_vector))


def gradient_norm(
    online: QNetwork,
    target: QNetwork,
    objective: Objective,
    batch: Batch,
    noise: UpdateNoise | None,
) -> float:
    """Return the Euclidean norm of the gradient of the mean loss, before gradient clipping.

    Both networks are switched to evaluation mode, so that no batch statistics are updated. The
    parameters' `.grad` is left unchanged.

    Args:
        online: Network with respect to whose parameters the gradient is computed.
        target: Target network.
        objective: Function that computes the loss.
        batch: Transitions for which the loss is computed.
        noise: Random inputs of the forward passes; None if the objective does not accept any.
    """
    online.set_mode(training=False)
    target.set_mode(training=False)
    noise_arguments = () if noise is None else (noise,)
    parameters = [p for p in online.parameters() if p.requires_grad]
    with torch.enable_grad():
        loss = objective(online, target, batch, *noise_arguments).loss.mean()
        gradients: Sequence[Tensor] = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return float(torch.linalg.vector_norm(parameters_to_vector(gradients)))


def forward_with_activations(network: QNetwork, obs: Tensor) -> tuple[Any, list[Tensor], Tensor]:
    """Run a network in evaluation mode, and return its output, activations and features.

    Args:
        network: Network to run.
        obs: Observations [B, …].

    Returns:
        The output of the head; the outputs of PyTorch's activation modules, such as `nn.ReLU`, in
        the order of execution; and the features [B, D], which are the input of the head.
    """
    activations: list[Tensor] = []
    layers = [m for m in network.modules() if type(m).__module__ == nn.ReLU.__module__]
    hooks = [
        layer.register_forward_hook(lambda *arguments: activations.append(arguments[-1]))
        for layer in layers
    ]
    network.set_mode(training=False)
    try:
        with torch.no_grad():
            features = network.features(obs)
            return network.head(features), activations, features
    finally:
        for hook in hooks:
            hook.remove()
