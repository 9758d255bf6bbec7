"""What travels between the parts.

Letters in shape comments: B rows of a batch, N environments, A actions, S frames of a stack,
n steps of a return, D features, K numbers for each action, R numbers of noise, … the shape of one
observation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Observations: TypeAlias = NDArray[Any] | Tensor
"""Observations [N, …] where the replay holds them: in numpy on the host, or on a device."""

Act: TypeAlias = Callable[[Any], NDArray[np.int64]]
"""Greedy actions [N] for `Observations`: how the network is lent to the environments."""


class Batch(NamedTuple):
    """Transitions drawn from the replay, everything a loss may know of them.

    Attributes:
        obs: Observations [B, …].
        action: Actions taken [B], int64.
        reward: Sum of the discounted rewards of the n steps [B].
        discount: Factor of the value of `next_obs` [B]: gamma to the number of steps, 0 beyond a
            terminal state. Termination, truncation and n-step tails are all spent in it.
        next_obs: Observations after those steps [B, …].
        weight: Weight of each row's loss [B]; 1 where rows were drawn uniformly.
        row: Number of the row since the start of the run [B], int64; never wraps.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor
    weight: Tensor
    row: Tensor


class QValues(NamedTuple):
    """Output of a head: action values [B, A]."""

    q_values: Tensor


class Categorical(NamedTuple):
    """Output of a head: for each action, probabilities of K returns.

    Attributes:
        q_values: Action values [B, A], the means.
        logits: Logarithms of the probabilities, but for a constant [B, A, K].
        atoms: The returns [K], in equal steps.
    """

    q_values: Tensor
    logits: Tensor
    atoms: Tensor


class Quantiles(NamedTuple):
    """Output of a head: for each action, K quantiles of the return.

    Attributes:
        q_values: Action values [B, A], the means over quantiles.
        quantiles: The quantiles [B, A, K].
        fractions: The share of returns that lies below each, [K] or [B, K].
    """

    q_values: Tensor
    quantiles: Tensor
    fractions: Tensor


class Draw(NamedTuple):
    """What is random in one pass through a network; None for what the network has not.

    Attributes:
        noise: Of all noisy layers [B, R], or the same for all rows [1, R].
        fractions: At which a head gives quantiles [B, K].
    """

    noise: Tensor | None = None
    fractions: Tensor | None = None


class Draws(NamedTuple):
    """What is random in an update: of each pass through a network its own, or None.

    Attributes:
        online: For the values of the batch's observations.
        selector: For the choice of the best next action.
        target: For what the target network says.
    """

    online: Draw | None = None
    selector: Draw | None = None
    target: Draw | None = None


class Episode(NamedTuple):
    """A finished episode.

    Attributes:
        env: Number of the environment that played it.
        duration: Environment steps it took.
        episode_return: Undiscounted sum of its rewards.
        env_steps: Environment steps of the whole run when it ended.
    """

    env: int
    duration: int
    episode_return: float
    env_steps: int


class Moment(NamedTuple):
    """One moment of an episode that is played with action values.

    Attributes:
        picture: What the environment draws [H, W, 3], uint8.
        q_values: Action values of the observation [A].
        action: The action taken now; None where the episode is over.
        step: Environment steps since the episode's start.
        episode_return: Undiscounted sum of its rewards so far.
    """

    picture: NDArray[np.uint8]
    q_values: NDArray[np.float32]
    action: int | None
    step: int
    episode_return: float


class Clock(NamedTuple):
    """Where a run stands: environment steps, finished episodes of this rank, gradient steps.

    Between updates, environment steps are the count at which the update was due, which is the same
    on all ranks.
    """

    env_steps: int
    episodes: int
    grad_steps: int
