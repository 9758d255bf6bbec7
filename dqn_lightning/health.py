"""Numbers that tell a healthy run from a sick one; `docs/health.md` says how to read them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from dqn_lightning.collector import Collector
from dqn_lightning.losses import Objective
from dqn_lightning.networks import QNetwork
from dqn_lightning.types import Batch, Draws

_REWARDS = ("reward", "terminated", "truncated", "boundary")


class ReturnsToGo(NamedTuple):
    """What was still to come, from each step on.

    Attributes:
        returns: Discounted sums of the rewards until the record ends [T, N].
        tails: Weight of what came after that [T, N]: 0 where the episode terminated.
    """

    returns: NDArray[np.float64]
    tails: NDArray[np.float64]


def returns_to_go(
    reward: NDArray[Any], terminated: NDArray[Any], truncated: NDArray[Any], gamma: float
) -> ReturnsToGo:
    """G_t = r_t+1 + gamma G_t+1 over T steps of N environments, all arguments [T, N].

    Episodes may follow each other. Where one is cut, by its time limit or by the record's end, the
    return would go on, and its weight is gamma to the number of steps until then.

    >>> one = np.ones((2, 2))
    >>> terminated = np.array([[False, False], [True, False]])
    >>> both = returns_to_go(one, terminated, np.zeros_like(terminated), gamma=0.5)
    >>> both.returns.tolist(), both.tails.tolist()
    ([[1.5, 1.5], [1.0, 1.0]], [[0.0, 0.25], [0.0, 0.5]])
    """
    returns, tails = np.zeros(reward.shape), np.zeros(reward.shape)
    to_go, tail = np.zeros(reward.shape[1]), np.ones(reward.shape[1])
    for t in reversed(range(len(reward))):
        ended = terminated[t] | truncated[t]
        to_go = reward[t] + gamma * np.where(ended, 0.0, to_go)
        tail = gamma * np.where(terminated[t], 0.0, np.where(truncated[t], 1.0, tail))
        returns[t], tails[t] = to_go, tail
    return ReturnsToGo(returns, tails)


class VisitedStates:
    """Some of the states that an evaluation comes through, and the returns that followed.

    Of the vector steps every second, fourth, eighth, … is kept as they grow many.

    Args:
        num_states: The most to keep.
    """

    def __init__(self, num_states: int) -> None:
        self.num_states = num_states
        self._steps: dict[str, list[NDArray[Any]]] = {name: [] for name in _REWARDS}
        self._obs: dict[int, Tensor] = {}  # number of a vector step → [N, …]
        self._every = 1

    def record(self, collector: Collector) -> None:
        """Take down the newest vector step of a collector, and where its environments are now."""
        replay = collector.replay
        for name, steps in self._steps.items():
            steps.append(replay.newest(name).copy())
        number = len(self._steps["reward"])
        if number % self._every:
            return
        self._obs[number] = torch.as_tensor(replay.current_obs()).clone()
        while len(self._obs) > max(1, self.num_states // replay.num_envs):
            self._every *= 2
            self._obs = {t: obs for t, obs in self._obs.items() if t % self._every == 0}

    def finish(self, gamma: float) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64]]:
        """The states [n, …], the returns from them [n], and the weights of their tails [n]."""
        reward, terminated, truncated, boundary = (np.stack(self._steps[name]) for name in _REWARDS)
        to_go = returns_to_go(reward, terminated, truncated, gamma)
        times = [t for t in self._obs if t < len(reward)]  # after the last step nothing followed
        if not times:
            return torch.empty(0), np.empty(0), np.empty(0)
        acted = ~boundary[times]  # in a boundary row the environment reset itself
        obs = torch.stack([self._obs[t] for t in times])[torch.from_numpy(acted)]
        return obs, to_go.returns[times][acted], to_go.tails[times][acted]


def dormant_share(activations: Iterable[Tensor], threshold: float = 0.1) -> float:
    """Share of the units that hardly ever do anything (Sokar et al. 2023).

    A unit's score is its mean absolute activation, divided by that of its layer; it is dormant up
    to the threshold (theirs). A layer's activations are [B, units] or [B, channels, …].

    >>> dormant_share([torch.tensor([[1.0, 0.0], [3.0, 0.1]])])
    0.5
    """
    dormant = units = 0
    for activation in activations:
        score = activation.abs().flatten(2).mean(2) if activation.ndim > 2 else activation.abs()
        score = score.mean(0)
        dormant += int((score <= threshold * score.mean()).sum())
        units += len(score)
    return dormant / units if units else 0.0


def effective_rank(features: Tensor, share: float = 0.99) -> float:
    """How many directions the features [B, D] take up (Kumar et al. 2021).

    The least k whose k greatest singular values make up this share of the sum of all. NaN if
    features are not finite, which have none.

    >>> effective_rank(torch.diag(torch.tensor([6.0, 3.0, 1.0])), share=0.8)
    2.0
    """
    if not torch.isfinite(features).all():
        return float("nan")
    sums = torch.linalg.svdvals(features).cumsum(0)
    return float((sums < share * sums[-1]).sum()) + 1


def normalized_entropy(chances: NDArray[np.float64]) -> float:
    """Entropy of probabilities [n], 1 if all that are not 0 are equal; 1 if there is but one.

    >>> normalized_entropy(np.array([0.25, 0.25, 0.0, 0.25, 0.25]))
    1.0
    """
    positive = chances[chances > 0]
    if len(positive) < 2:
        return 1.0
    return float(-(positive * np.log(positive)).sum() / np.log(len(positive)))


@torch.no_grad()
def relative_distance(online: nn.Module, target: nn.Module) -> float:
    """Euclidean distance of the target's parameters from the online ones, in sizes of these."""
    ours, theirs = (parameters_to_vector(net.parameters()) for net in (online, target))
    return float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(ours))


def gradient_norm(
    online: QNetwork, target: QNetwork, objective: Objective, batch: Batch, draws: Draws | None
) -> float:
    """Euclidean norm of the mean loss's gradient, before anything clamps it."""
    online.switch(training=False)  # in training mode, statistics would be learnt
    target.switch(training=False)
    random = () if draws is None else (draws,)
    parameters = [p for p in online.parameters() if p.requires_grad]
    with torch.enable_grad():
        loss = objective(online, target, batch, *random).loss.mean()
        gradients: Sequence[Tensor] = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return float(torch.linalg.vector_norm(parameters_to_vector(gradients)))


def look_inside(network: QNetwork, obs: Tensor) -> tuple[Any, list[Tensor], Tensor]:
    """What a network makes of observations [B, …]: output, each layer's activations, features.

    The features [B, D] are the torso's. Activations known are modules of PyTorch's own.
    """
    seen: list[Tensor] = []
    layers = [m for m in network.modules() if type(m).__module__ == nn.ReLU.__module__]
    hooks = [layer.register_forward_hook(lambda *made: seen.append(made[-1])) for layer in layers]
    network.switch(training=False)
    try:
        with torch.no_grad():
            features = network.features(obs)
            return network.head(features), seen, features
    finally:
        for hook in hooks:
            hook.remove()
