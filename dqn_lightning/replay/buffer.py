"""Replay buffer ordered by time; n-step returns and frame stacks are computed when sampling.

Each step of the vector environment (a vector step) writes one row per environment:

    obs_t | action_t | reward_t+1 | terminated_t+1 | truncated_t+1 | episode_step_t | is_reset_t

The environments reset themselves in the step after the end of an episode (Gymnasium's
`AutoresetMode.NEXT_STEP`). The row written by that step is called a reset row. It contains the
final observation of the finished episode, which is the bootstrap state if the episode was
truncated. Reset rows are marked by `is_reset` and never sampled. Each observation is thus stored
exactly once, and final observations need no special case. The newest row of each environment is
pending: it contains the current observation, but its action, reward and end-of-episode flags are
not known yet.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning.checkpointing.serialization import from_plain, to_plain
from dqn_lightning.replay.augmentations import Augmentation
from dqn_lightning.replay.samplers import PrioritySampler, Rows, Sampler, SamplingPool, Uniform
from dqn_lightning.replay.storage import Storage
from dqn_lightning.schedules import Schedule
from dqn_lightning.types import Batch, Observations


def n_step_at(n_step: int | Schedule, env_steps: int) -> int:
    """Return `n_step` after `env_steps` environment steps, as an integer of at least 1."""
    return n_step if isinstance(n_step, int) else max(1, round(n_step(env_steps)))


class ReplayBuffer:
    """Ring buffer for the transitions of N environments.

    Rows are numbered from the start of the run: row `t * N + env` is written by environment `env`
    in vector step t, a step of all environments. The numbers keep increasing when old rows are
    overwritten.

    Args:
        capacity: Maximum number of rows over all environments. This includes reset rows, which
            record the automatic reset of an environment after an episode and are never sampled.
        num_envs: Number of environments N.
        obs_shape: Shape of one observation before stacking; at least one dimension.
        obs_dtype: Dtype of the observations.
        gamma: Discount factor per step. May be changed at any time.
        n_step: Number of steps in an n-step return (Sutton 1988). A constant may be changed at any
            time; a schedule, a function of environment steps, is evaluated before each batch.
        bootstrap_terminal: Whether to bootstrap from terminal observations too. This is wrong in
            general, but reproduces MorvanZhou's tutorial.
        frame_stack: Number of observations stacked along their first dimension, oldest first. The
            first observation of an episode is repeated until the stack is full.
        sampler: Sampler that selects the rows of a batch; uniform sampling with replacement if
            None. A `PrioritySampler` must not be shared with another replay.
        augmentations: Augmentations applied to each sampled batch, in order.
        rng: Random generator for sampling and augmentations; if None, a generator with seed 0.
        device: Device on which observations are stored and batches are created.

    Raises:
        ValueError: If `capacity` is too small for one n-step window with its frame stack.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        obs_shape: tuple[int, ...],
        obs_dtype: torch.dtype,
        *,
        gamma: float = 0.99,
        n_step: int | Schedule = 1,
        bootstrap_terminal: bool = False,
        frame_stack: int = 1,
        sampler: Sampler | None = None,
        augmentations: Sequence[Augmentation] = (),
        rng: np.random.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        slots = capacity // num_envs
        self.num_envs = num_envs
        self.gamma = gamma
        self.bootstrap_terminal = bootstrap_terminal
        self.frame_stack = frame_stack
        self._slots = slots
        self._n_step_schedule = None if isinstance(n_step, int) else n_step
        self.n_step = n_step_at(n_step, 0)
        self._check_slots()
        self.sampler = sampler or Uniform()
        self.augmentations = augmentations
        self.rng = rng or np.random.default_rng(0)
        self._storage = Storage(slots, num_envs, obs_shape, obs_dtype, device)
        self._device = torch.device(device)
        self._priority_sampler = self.sampler if isinstance(self.sampler, PrioritySampler) else None
        self._time = 0  # number of the pending vector step
        self._pending_episode_step = np.zeros(num_envs, np.int32)
        self._pending_is_reset = np.zeros(num_envs, np.bool_)

    def _check_slots(self) -> None:
        needed = self.n_step + self.frame_stack + 1
        if self._slots < needed:
            raise ValueError(
                f"the replay holds {self._slots} steps of each of {self.num_envs} environments, "
                f"but n_step {self.n_step} and frame_stack {self.frame_stack} need {needed}"
            )

    # Writing ------------------------------------------------------------------------------------

    def reset(self, obs: NDArray[np.generic]) -> None:
        """Delete all rows and store the first observation of each environment.

        Args:
            obs: First observations [N, …].
        """
        self._time = 0
        if self._priority_sampler is not None:
            self._priority_sampler.reset(self._slots * self.num_envs, self._device)
        self._set_pending(obs, np.zeros(self.num_envs, np.int32), np.zeros(self.num_envs, np.bool_))

    def write(
        self,
        action: NDArray[np.generic],
        reward: NDArray[np.generic],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_obs: NDArray[np.generic],
    ) -> None:
        """Store one step of all environments.

        This completes the pending row of each environment, which so far contains only the current
        observation, and adds the next pending row.

        Args:
            action: Actions [N] passed to the vector environment.
            reward: Rewards [N].
            terminated: Mask [N] of the episodes that terminated in this step.
            truncated: Mask [N] of the episodes that were truncated in this step.
            next_obs: Observations [N, …] returned by the step.
        """
        self._storage.write(
            self._time % self._slots,
            action=action,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
        )
        self._time += 1
        self._pending_episode_step += 1
        if np.count_nonzero(self._pending_is_reset):
            self._pending_episode_step[self._pending_is_reset] = 0
        self._set_pending(next_obs, self._pending_episode_step, terminated | truncated)

    def restart_episodes(self, obs: NDArray[np.generic]) -> None:
        """Truncate all episodes in progress and store the first observations of new ones.

        Call this method after resetting all environments explicitly.

        Args:
            obs: First observations of the new episodes [N, …].
        """
        none = np.zeros(self.num_envs, np.bool_)
        if self._time > 0:
            last = (self._time - 1) % self._slots
            ended_or_reset = self._pending_is_reset | self._storage.values_at("is_reset", last)
            truncated = self._storage.values_at("truncated", last) | ~ended_or_reset
            self._storage.write(last, truncated=truncated)
        self._pending_is_reset = ~none
        self._storage.write(self._time % self._slots, is_reset=self._pending_is_reset)
        self.write(np.zeros(self.num_envs), np.zeros(self.num_envs), none, none, obs)

    def _set_pending(
        self,
        obs: NDArray[np.generic],
        episode_step: NDArray[np.int32],
        is_reset: NDArray[np.bool_],
    ) -> None:
        self._pending_episode_step = episode_step
        self._pending_is_reset = is_reset
        self._storage.write(
            self._time % self._slots, obs=obs, episode_step=episode_step, is_reset=is_reset
        )

    # Saving and loading -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return metadata, RNG state and priorities; use `read` to save the rows."""
        sampler = self._priority_sampler
        return {
            "slots": self._slots,
            "num_envs": self.num_envs,
            "time": self._time,
            "episode_step": torch.from_numpy(self._pending_episode_step.copy()),
            "is_reset": torch.from_numpy(self._pending_is_reset.copy()),
            "rng": to_plain(self.rng),
            "sampler": None if sampler is None else sampler.state_dict(),
        }

    def check_size(self, state: dict[str, Any]) -> None:
        """Check that a saved state comes from a replay of the same size.

        Raises:
            ValueError: If the number of environments or slots differs. The number of slots is the
                number of vector steps that fit into the replay.
        """
        for name, expected in {"slots": self._slots, "num_envs": self.num_envs}.items():
            if state[name] != expected:
                raise ValueError(f"{name}: expected {expected}, got {state[name]}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore metadata, RNG state and priorities; then call `load_rows` to restore the rows.

        If the state contains no priorities but this replay uses them, the restored rows are
        assigned the priority of new rows.

        Raises:
            ValueError: If the saved replay has a different size.
        """
        self.check_size(state)
        self._time = state["time"]
        self._pending_episode_step = state["episode_step"].numpy().copy()
        self._pending_is_reset = state["is_reset"].numpy().copy()
        self.rng = from_plain(state["rng"])
        if self._priority_sampler is not None:
            self._priority_sampler.reset(self._slots * self.num_envs, self._device)
            if state.get("sampler") is not None:
                self._priority_sampler.load_state_dict(state["sampler"])

    @property
    def times(self) -> range:
        """Range of the stored vector steps; the last one is pending (its actions are not known)."""
        return range(max(0, self._time - self._slots + 1), self._time + 1)

    @property
    def step_bytes(self) -> int:
        """Size in bytes of one vector step, which consists of one row per environment."""
        return self._storage.slot_bytes

    def read(self, times: range) -> dict[str, Tensor]:
        """Return a copy of T stored vector steps in host memory, as a dict of columns [T, N, …].

        Args:
            times: Range of the vector steps; it must lie within `self.times`.
        """
        parts = [self._storage.read(slots) for slots in self._slots_of(times)]
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def load_rows(self, times: range, columns: dict[str, Tensor]) -> None:
        """Restore T vector steps returned by `read`. Steps older than `self.times` are skipped.

        Args:
            times: Range of the vector steps.
            columns: Columns [T, N, …] of the vector steps.

        Raises:
            ValueError: If a vector step is newer than the pending one and thus cannot belong to the
                loaded state.
        """
        if times.stop - 1 > self._time:
            raise ValueError(
                f"the saved replay ends at vector step {self._time}, but its rows contain vector "
                f"step {times.stop - 1}: they belong to another run"
            )
        skipped = max(0, self.times.start - times.start)
        times = times[skipped:]
        for slots in self._slots_of(times):
            rows = {
                name: column[skipped : skipped + len(slots)] for name, column in columns.items()
            }
            self._storage.write_slots(slots.start, rows)
            skipped += len(slots)

    def append_foreign(self, columns: dict[str, Tensor]) -> None:
        """Insert the vector steps of another replay before the pending step.

        The last inserted row of each environment becomes a reset row: it is never sampled, and its
        observation is used only as a next observation. Episodes that are in progress at that row
        are truncated. Frame stacks do not extend beyond the first inserted step.

        Args:
            columns: Columns [T, N, …] of the T vector steps, as returned by `read`.
        """
        length = len(columns["obs"])
        slot = self._time % self._slots
        newest = self._storage.read(range(slot, slot + 1))
        pending = {name: newest[name][0] for name in ("obs", "episode_step", "is_reset")}
        rows = {name: column.clone() for name, column in columns.items()}
        inserted_before = torch.arange(length, dtype=torch.int32)[:, None]
        rows["episode_step"] = torch.minimum(rows["episode_step"], inserted_before)
        rows["is_reset"][-1] = True
        if length > 1:
            still_running = ~(rows["terminated"][-2] | rows["is_reset"][-2])
            rows["truncated"][-2] |= still_running
        times = range(self._time, self._time + length)
        self._time = times.stop
        self.load_rows(times, rows)
        self._storage.write(self._time % self._slots, **pending)

    def _slots_of(self, times: range) -> list[range]:
        """Return the slots of a range of vector steps; a range that wraps around yields two."""
        if not times:
            return []
        start, stop = times.start % self._slots, times.stop % self._slots or self._slots
        if start < stop:
            return [range(start, stop)]
        return [range(start, self._slots), range(stop)]

    # The pending row ----------------------------------------------------------------------------

    @property
    def pending_is_reset(self) -> NDArray[np.bool_]:
        """Mask [N] of the environments that will ignore their next action and reset instead."""
        return self._pending_is_reset

    @property
    def pending_episode_step(self) -> NDArray[np.int32]:
        """Steps [N] since the start of each current episode, as a view that `write` modifies."""
        return self._pending_episode_step

    def current_obs(self) -> Observations:
        """Return the current stacked observations [N, …], possibly a view that `write` modifies."""
        if self.frame_stack == 1:
            return self._storage.obs_at(self._time % self._slots)
        first = self._time * self.num_envs
        rows = np.arange(first, first + self.num_envs)
        stacked = self._gather_stacked(rows, self._position(rows))
        return stacked.numpy() if stacked.device.type == "cpu" else stacked

    def newest(self, column: str) -> NDArray[Any]:
        """Return a view of a column [N, …] in the newest vector step whose actions are known."""
        return self._storage.values_at(column, (self._time - 1) % self._slots)

    # Sampling -----------------------------------------------------------------------------------

    @property
    def rows(self) -> range:
        """Range of the complete rows (action and reward are known), including reset rows."""
        oldest = max(0, self._time - self._slots + 1)
        return range(oldest * self.num_envs, self._time * self.num_envs)

    def samplable(self, rows: Rows) -> NDArray[np.bool_]:
        """Determine which of the given rows can be sampled.

        A row can be sampled if it is not a reset row, all frames of its stack are still in the
        buffer, and its n-step window is complete: n steps were taken, or its episode ended earlier.

        Args:
            rows: Row numbers [B]; each must be in `self.rows`.

        Returns:
            A Boolean mask [B], true for rows that can be sampled.
        """
        position = self._position(rows)
        mask: NDArray[np.bool_] = ~self._storage.gather("is_reset", position)
        if self.frame_stack > 1:
            step = self._storage.gather("episode_step", position)
            history = np.minimum(step, self.frame_stack - 1) * self.num_envs
            mask &= rows - history >= self.rows.start
        if self.n_step > 1:
            num_steps = self._in_window(rows).sum(1)
            mask &= rows + (num_steps - 1) * self.num_envs < self.rows.stop
        return mask

    def sample(self, batch_size: int, env_steps: int = 0) -> Batch:
        """Sample a batch of n-step transitions and apply the augmentations.

        Args:
            batch_size: Number of rows B.
            env_steps: Environment steps of the run so far, used to evaluate schedules.

        Raises:
            RuntimeError: If no row can be sampled, or if sampling is without replacement and fewer
                than B rows can be sampled.
            ValueError: If the schedule of `n_step` returns a value too large for the capacity.
        """
        if self._n_step_schedule is not None:
            self.n_step = n_step_at(self._n_step_schedule, env_steps)
            self._check_slots()
        batch = self.gather(*self.sampler.sample(self._pool(env_steps), batch_size))
        for augmentation in self.augmentations:
            batch = augmentation(batch, self.rng)
        return batch

    def _pool(self, env_steps: int) -> SamplingPool:
        return SamplingPool(
            self.rows,
            self.samplable,
            self.rng,
            num_pending=self.num_envs,
            num_unsettled_newest=(self.n_step - 1) * self.num_envs,
            num_unsettled_oldest=(self.frame_stack - 1) * self.num_envs,
            env_steps=env_steps,
        )

    def probabilities(self) -> NDArray[np.float64]:
        """Return the sampling probabilities [len(self.rows)] of all complete rows.

        With priorities, rows written since the last batch have probability 0. Takes O(capacity)
        time.
        """
        return self.sampler.probabilities(self._pool(env_steps=0))

    @property
    def has_priorities(self) -> bool:
        """Whether rows are sampled by priority, so that `set_priorities` has an effect."""
        return self._priority_sampler is not None

    def set_priorities(self, rows: Rows | Tensor, priority: NDArray[Any] | Tensor) -> None:
        """Set the priorities of sampled rows. Rows that have been overwritten are ignored.

        Args:
            rows: Row numbers [B].
            priority: New priorities [B].
        """
        if self._priority_sampler is not None:
            self._priority_sampler.update(rows, priority, self.rows)

    def gather(self, rows: Rows, weight: NDArray[np.float32] | None = None) -> Batch:
        """Return the n-step transitions that start at the given rows.

        A window consists of n steps, or fewer if the episode ends earlier. For k steps, the reward
        is the sum of gamma^j r_{t+1+j} for j = 0 … k - 1, and the next observation is obs_{t+k}.
        The discount is 0 if the last step terminated the episode and `bootstrap_terminal` is false;
        otherwise, it is gamma^k.

        Args:
            rows: Row numbers [B]; all of these rows must be samplable.
            weight: Loss weights [B]; all 1 if None.
        """
        position = self._position(rows)
        bootstrap: Any  # gamma^k, the discount of the next value
        if self.n_step == 1:
            reward = self._storage.gather("reward", position)
            terminated = self._storage.gather("terminated", position)
            bootstrap = np.float32(self.gamma)
            next_rows = rows + self.num_envs
        else:
            in_window = self._in_window(rows)  # [B, n]
            gammas = self.gamma ** np.arange(self.n_step + 1)
            rewards = self._gather_next("reward", rows) * in_window * gammas[:-1]
            reward = rewards.sum(1).astype(np.float32)
            terminated = np.any(self._gather_next("terminated", rows) & in_window, axis=1)
            num_steps = in_window.sum(1)
            bootstrap = gammas[num_steps].astype(np.float32)
            next_rows = rows + num_steps * self.num_envs
        if self.bootstrap_terminal:
            terminated = np.zeros_like(terminated)
        discount = ~terminated * bootstrap
        to_device = self._storage.to_device
        return Batch(
            obs=self._gather_stacked(rows, position),
            action=to_device(self._storage.gather("action", position)),
            reward=to_device(reward),
            discount=to_device(discount),
            next_obs=self._gather_stacked(next_rows, self._position(next_rows)),
            weight=to_device(np.ones_like(reward) if weight is None else weight),
            row=to_device(rows),
        )

    # Views of the ring --------------------------------------------------------------------------

    def _position(self, rows: Rows) -> Rows:
        return rows % (self._slots * self.num_envs)

    def _gather_next(self, column: str, rows: Rows) -> NDArray[Any]:
        """Return a column's values [B, n] at each given row and the n - 1 rows that follow it.

        Following rows belong to the same environment. Those that are newer than the newest complete
        row contain invalid values.
        """
        window = rows[:, None] + np.arange(self.n_step) * self.num_envs
        return self._storage.gather(column, self._position(window))

    def _in_window(self, rows: Rows) -> NDArray[np.bool_]:
        """Return a mask [B, n] of the steps that belong to the n-step window of each row.

        A window includes the step that ended the episode, but no later step. Values after the
        newest complete row are invalid, but `samplable` excludes every window that reaches them.
        """
        ended = self._gather_next("terminated", rows) | self._gather_next("truncated", rows)
        in_window: NDArray[np.bool_] = np.ones_like(ended)
        np.logical_not(np.logical_or.accumulate(ended[:, :-1], axis=1), out=in_window[:, 1:])
        return in_window

    def _gather_stacked(self, rows: Rows, position: Rows) -> Tensor:
        """Return the observations [B, S * C, …] of rows [B] as stacks of S frames with C channels.

        The argument `position` contains the positions [B] of these rows in the ring buffer.
        """
        if self.frame_stack == 1:
            return self._storage.gather_obs(position)
        step = self._storage.gather("episode_step", position)
        age = np.arange(self.frame_stack - 1, -1, -1)
        back = np.minimum(age, step[:, None])  # [B, S], 0 for the newest frame
        position = self._position(rows[:, None] - back * self.num_envs)
        frames = self._storage.gather_obs(position.reshape(-1))  # [B * S, C, …]
        return frames.view(len(rows), -1, *frames.shape[2:])  # [B, S * C, …]
