"""Settings for the replay buffer (`data.replay`)."""

import math
from dataclasses import dataclass
from typing import Literal

from dqn_lightning.errors import ConfigError
from dqn_lightning.replay.augmentations import Augmentation
from dqn_lightning.replay.buffer import n_step_at
from dqn_lightning.replay.samplers import Sampler
from dqn_lightning.schedules import CHECKED_COUNTS, Schedule, as_schedule


@dataclass(frozen=True)
class ReplaySettings:
    """Settings for the replay buffer: what it stores and how batches are sampled.

    Args:
        capacity: Maximum number of rows per rank; each environment adds one row per step.
        batch_size: Number of rows in a batch, per rank.
        n_step: Number of steps in an n-step return (Sutton 1988): a constant, or a schedule over
            environment steps.
        gamma: Discount factor per step.
        frame_stack: Number of most recent observations stacked as the network's input.
        sampler: Sampler that selects the rows of a batch; uniform sampling with replacement if
            null.
        augmentations: Random transformations applied to each batch, in order; null for none.
        device: Device on which observations are stored: `auto` (the training GPU if there is one,
            else host memory) or `cpu` (host memory).
        reward_clip: Maximum absolute value to which rewards are clipped for learning (1 in Mnih et
            al. 2015); no clipping if null. Logs and evaluations always use the original rewards.
        reward_scale: Factor by which rewards are multiplied for learning, after clipping.
        bootstrap_terminal: Whether to bootstrap from terminal observations too. This is wrong in
            general, but reproduces MorvanZhou's tutorial.

    Raises:
        ConfigError: If a value is out of range.
    """

    capacity: int = 100_000
    batch_size: int = 64
    n_step: int | Schedule = 1
    gamma: float = 0.99
    frame_stack: int = 1
    sampler: Sampler | None = None
    augmentations: list[Augmentation] | None = None
    device: Literal["auto", "cpu"] = "auto"
    reward_clip: float | None = None
    reward_scale: float = 1.0
    bootstrap_terminal: bool = False

    def __post_init__(self) -> None:
        """Validate the settings as far as possible without other groups of settings."""
        for name in ("capacity", "batch_size", "frame_stack"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"data.replay.{name}: must be at least 1, got {getattr(self, name)}"
                )
        if isinstance(self.n_step, int) and self.n_step < 1:
            raise ConfigError(f"data.replay.n_step: must be at least 1, got {self.n_step}")
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"data.replay.gamma: must be in [0, 1], got {self.gamma}")
        if self.reward_clip is not None and not self.reward_clip > 0:
            raise ConfigError(f"data.replay.reward_clip: must be positive, got {self.reward_clip}")
        if not 0 < self.reward_scale < math.inf:
            raise ConfigError(
                f"data.replay.reward_scale: must be positive and finite, got {self.reward_scale}"
            )
        if self.batch_size > self.capacity:
            raise ConfigError(
                f"data.replay.batch_size: {self.batch_size} is more than data.replay.capacity "
                f"{self.capacity}"
            )

    @property
    def samples_with_replacement(self) -> bool:
        """Whether a batch can contain the same row more than once."""
        return self.sampler is None or self.sampler.replacement

    def max_n_step(self, total_env_steps: int | None) -> int:
        """Return the largest value of `n_step` in a run.

        A schedule can be any function, so it is evaluated at the first and last environment step of
        the run and at the powers of ten in between.

        Args:
            total_env_steps: Environment steps of the run; None for no limit, in which case `n_step`
                is evaluated up to step 10^9.

        Raises:
            ConfigError: If `n_step` is less than 1 or infinite at one of these steps.
        """
        end, schedule = total_env_steps or 10**9, as_schedule(self.n_step)
        largest = 1
        for count in (*(count for count in CHECKED_COUNTS if count < end), end):
            n_step = schedule(count)
            if not 1 <= n_step < math.inf:
                raise ConfigError(
                    f"data.replay.n_step: must be at least 1 and finite, is {n_step} at "
                    f"environment step {count}"
                )
            largest = max(largest, n_step_at(self.n_step, count))
        return largest

    def check_capacity(self, num_envs: int, max_n_step: int) -> None:
        """Check that the replay is large enough for an n-step window and for a batch.

        The size of a batch matters only if sampling is without replacement.

        Args:
            num_envs: Number of environments per rank.
            max_n_step: Largest value of `n_step` in the run.

        Raises:
            ConfigError: If the capacity is too small.
        """
        slots = self.capacity // num_envs
        window = max_n_step + self.frame_stack + 1
        if slots < window:
            raise ConfigError(
                f"data.replay.capacity: {self.capacity} rows are {slots} steps of each of "
                f"{num_envs} environments; data.replay.n_step {max_n_step} with "
                f"data.replay.frame_stack {self.frame_stack} needs at least {window}, so set the "
                f"capacity to {window * num_envs} or more"
            )
        # In the worst case, one-step episodes, every other row is a reset row.
        always_samplable = (1 + (slots - window) // 2) * num_envs
        if not self.samples_with_replacement and self.batch_size > always_samplable:
            needed = (2 * (-(-self.batch_size // num_envs) - 1) + window) * num_envs
            raise ConfigError(
                f"data.replay.batch_size: {self.batch_size} rows cannot always be sampled without "
                f"replacement from data.replay.capacity {self.capacity}; set the capacity to "
                f"{needed} or more"
            )
