"""Data types shared across the package.

Symbols in shapes: B rows in a batch, N environments, A actions, S stacked frames,
n steps of a return, D features, K outputs per action (atoms or quantiles), R random numbers for the
noisy layers, … the shape of one observation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Observations: TypeAlias = NDArray[Any] | Tensor
"""Observations [N, …]: a NumPy array on the host, or a tensor on the replay's device."""

Policy: TypeAlias = Callable[[Any], NDArray[np.int64]]
"""Function from `Observations` [N, …] to greedy actions [N]."""


class Batch(NamedTuple):
    """Transitions sampled from the replay.

    Attributes:
        obs: Observations [B, …].
        action: Actions taken [B], int64.
        reward: Discounted sums [B] of the rewards over n steps.
        discount: Factors [B] by which the values of `next_obs` are multiplied: gamma to the power
            of the number of steps, or 0 after a terminal state. They already account for
            termination, truncation and shortened n-step returns.
        next_obs: Observations [B, …] after the n steps.
        weight: Importance weights [B] by which losses are multiplied; 1 with uniform sampling.
        row: Indices [B] of the sampled replay rows, int64. Row indices count from the start of the
            run and keep increasing when old rows are overwritten.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor
    weight: Tensor
    row: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device, copied if necessary; copies to a GPU are asynchronous."""
        if self.obs.device == device:
            return self
        tensors = [tensor.pin_memory() for tensor in self] if device.type == "cuda" else self
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


class QValues(NamedTuple):
    """Output of `ValueHead`.

    Attributes:
        q_values: Action values [B, A].
    """

    q_values: Tensor


class Categorical(NamedTuple):
    """Output of `CategoricalHead`: a categorical distribution of the return for each action.

    Attributes:
        q_values: Action values [B, A], the means of the distributions.
        logits: Logits [B, A, K] of the K atoms.
        atoms: Evenly spaced returns [K], ascending.
    """

    q_values: Tensor
    logits: Tensor
    atoms: Tensor


class Quantiles(NamedTuple):
    """Output of a quantile head: K quantiles of the return for each action.

    Attributes:
        q_values: Action values [B, A], the means over the quantiles.
        quantiles: Quantiles [B, A, K] of the return.
        taus: Quantile levels (probabilities), [K] if shared by all rows, else [B, K].
    """

    q_values: Tensor
    quantiles: Tensor
    taus: Tensor


class PassNoise(NamedTuple):
    """Random inputs of one forward pass; a field is None if it is unused.

    Attributes:
        layer_noise: Noise [B, R] for all noisy layers, or [1, R] if shared by all rows.
        taus: Levels (probabilities) [B, K] of the quantiles that an IQN head computes.
    """

    layer_noise: Tensor | None = None
    taus: Tensor | None = None


class UpdateNoise(NamedTuple):
    """Random inputs of one update, by forward pass; None for a pass without random inputs.

    Attributes:
        online: Random inputs for the online network's pass on `obs`.
        selector: Random inputs for the online network's pass on `next_obs`, which selects the next
            action.
        target: Random inputs for the target network.
    """

    online: PassNoise | None = None
    selector: PassNoise | None = None
    target: PassNoise | None = None


class Episode(NamedTuple):
    """A finished episode.

    Attributes:
        env: Index of the environment.
        length: Number of environment steps in the episode.
        episode_return: Undiscounted sum of the rewards.
        env_steps: Environment steps of the whole run at the end of the episode.
        cut_short: Whether an evaluation ended the episode because it was longer than
            `data.evaluation.max_steps`.
    """

    env: int
    length: int
    episode_return: float
    env_steps: int
    cut_short: bool = False


class PlayedStep(NamedTuple):
    """Image and values for one step of an episode, shown on a screen or in a video.

    Attributes:
        image: Rendered image [H, W, 3], uint8.
        q_values: Action values [A] for the observation.
        action: Action taken at this step; None after the last step.
        step: Environment steps since the start of the episode.
        episode_return: Undiscounted sum of the rewards so far.
        cut_short: Whether the episode was ended because of its length, before the environment ended
            it.
    """

    image: NDArray[np.uint8]
    q_values: NDArray[np.float32]
    action: int | None
    step: int
    episode_return: float
    cut_short: bool = False


class Clock(NamedTuple):
    """Counters at one point of a run, as passed to the functions in `DQNModule.after_update`.

    Attributes:
        env_steps: Environment steps of the run, over all ranks. After an update, this is the step
            at which the update was due, which is the same on all ranks.
        episodes: Episodes finished on this rank.
        grad_steps: Gradient steps so far.
    """

    env_steps: int
    episodes: int
    grad_steps: int


@dataclass
class RunProgress:
    """Progress of a run: counters and flags that are saved in checkpoints.

    The datamodule creates the object and shares it with the collector, the dataset and the module.

    Attributes:
        env_steps: Environment steps of the run, over all ranks; steps in which an environment only
            resets itself do not count. Each rank computes this number as its own count times the
            number of ranks.
        episodes: Episodes finished on this rank.
        episodes_before_step: Value of `episodes` before the newest step of the vector environment.
        grad_steps: Gradient steps, equal to Lightning's `global_step`.
        rollout_end: Value of `env_steps` at the end of the last complete rollout.
        next_update: Index of the next update, counted from 0; see `TrainingSchedule.update_due_at`.
        evaluation_pending: Whether an evaluation was due at `rollout_end` and is incomplete.
        notified_env_steps: Environment step of the latest round of updates before which the
            functions in `DQNModule.after_update` were called; prevents a second call.
        update_times: Value of `TrainingSchedule.update_times` for the schedule to which
            `next_update` refers; empty until training starts.
        run_id: Random identifier of the run, the same on all ranks and after every resume; empty
            before training starts.
    """

    env_steps: int = 0
    episodes: int = 0
    episodes_before_step: int = 0
    grad_steps: int = 0
    rollout_end: int = 0
    next_update: int = 0
    evaluation_pending: bool = False
    notified_env_steps: int = 0
    update_times: list[int] = field(default_factory=list)
    run_id: str = ""

    @property
    def clock(self) -> Clock:
        """Current numbers of environment steps, episodes and gradient steps."""
        return Clock(self.env_steps, self.episodes, self.grad_steps)

    def clock_before(self, update_due_at: int) -> Clock:
        """Return the clock just before an update that is due at the given environment step."""
        return Clock(update_due_at - 1, self.episodes_before_step, self.grad_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return all attributes as a dictionary."""
        return {**vars(self), "update_times": list(self.update_times)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all attributes in place."""
        vars(self).update(state, update_times=list(state["update_times"]))
