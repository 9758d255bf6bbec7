"""What happened, once, in order; n-step returns and frame stacks are views made when drawing.

Each step of the vector environment writes one row per environment:

    obs_t | action_t | reward_t+1 | terminated_t+1 | truncated_t+1 | episode_step_t | boundary_t

The environments reset themselves in the step after an episode's end (Gymnasium's
`AutoresetMode.NEXT_STEP`). That step's row is the boundary row: its observation is the last one
of the finished episode, which a truncated episode bootstraps from, and it is never drawn. So each
observation is stored once and none needs special care. The newest row is pending: only its
observation is known, and it is what the environments wait at.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning.plain import plain, restored
from dqn_lightning.replay.augmentations import Augmentation
from dqn_lightning.replay.samplers import Pool, PrioritySampler, Rows, Sampler, Uniform
from dqn_lightning.replay.storage import Storage
from dqn_lightning.schedules import Schedule
from dqn_lightning.types import Batch, Observations


def steps_at(n_step: int | Schedule, env_steps: int) -> int:
    """Steps of a return at a count of environment steps: the nearest whole number, at least 1."""
    return n_step if isinstance(n_step, int) else max(1, round(n_step(env_steps)))


class ReplayBuffer:
    """A ring of transitions of N environments.

    Args:
        capacity: Rows over all environments, boundary rows included.
        num_envs: Environments N.
        obs_shape: Shape of one observation, before stacking; at least one dimension.
        obs_dtype: Dtype of the observations.
        gamma: Discount of one step. May be changed at any time.
        n_step: Steps of the return (Sutton 1988). May be changed at any time, unless it is a
            schedule of environment steps: that is looked at, and rounded, before each draw.
        bootstrap_terminal: Whether the value of a terminal observation counts as any other's does.
            It is no part of the return: MorvanZhou's tutorial forgets to leave it out.
        frame_stack: Observations stacked along their first dimension, the oldest first; the first
            of an episode is repeated where there are not enough.
        sampler: Which rows are drawn; if by priority, the sampler is this replay's alone.
        augmentations: Change each batch that is drawn, one after the other.
        rng: Source of the random numbers that draw and change batches.
        device: Where observations lie and batches are made.

    Raises:
        ValueError: If `capacity` cannot hold one window of n steps with its stack.
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
        self._n_schedule = None if isinstance(n_step, int) else n_step
        self.n_step = steps_at(n_step, 0)
        self._check_window()
        self.sampler = sampler or Uniform()
        self.augmentations = augmentations
        self.rng = rng or np.random.default_rng(0)
        self._storage = Storage(slots, num_envs, obs_shape, obs_dtype, device)
        self._device = torch.device(device)
        self._by_priority = self.sampler if isinstance(self.sampler, PrioritySampler) else None
        self._time = 0  # number of the pending vector step
        self._episode_step = np.zeros(num_envs, np.int32)
        self._boundary = np.zeros(num_envs, np.bool_)

    def _check_window(self) -> None:
        needed = self.n_step + self.frame_stack + 1
        if self._slots < needed:
            raise ValueError(
                f"{self.num_envs} environments have {self._slots} steps each, "
                f"n_step {self.n_step} and frame_stack {self.frame_stack} need {needed}"
            )

    # Writing ------------------------------------------------------------------------------------

    def begin(self, obs: NDArray[np.generic]) -> None:
        """Forget all rows; episodes start in every environment with these observations [N, …]."""
        self._time = 0
        if self._by_priority is not None:
            self._by_priority.begin(self._slots * self.num_envs, self._device)
        self._set_pending(obs, np.zeros(self.num_envs, np.int32), np.zeros(self.num_envs, np.bool_))

    def write(
        self,
        action: NDArray[np.generic],
        reward: NDArray[np.generic],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_obs: NDArray[np.generic],
    ) -> None:
        """Complete the pending row of each environment and begin the next.

        All arguments are what one step of the vector environment took and gave, [N] or [N, …].
        """
        self._storage.write(
            self._time % self._slots,
            action=action,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
        )
        self._time += 1
        self._episode_step += 1
        if np.count_nonzero(self._boundary):
            self._episode_step[self._boundary] = 0
        self._set_pending(next_obs, self._episode_step, terminated | truncated)

    def restart(self, obs: NDArray[np.generic]) -> None:
        """Cut every running episode as a truncation; new ones start with these observations."""
        none = np.zeros(self.num_envs, np.bool_)
        if self._time > 0:
            last = (self._time - 1) % self._slots
            ended_or_boundary = self._boundary | self._storage.slot("boundary", last)
            truncated = self._storage.slot("truncated", last) | ~ended_or_boundary
            self._storage.write(last, truncated=truncated)
        self._boundary = ~none
        self._storage.write(self._time % self._slots, boundary=self._boundary)
        self.write(np.zeros(self.num_envs), np.zeros(self.num_envs), none, none, obs)

    def _set_pending(
        self,
        obs: NDArray[np.generic],
        episode_step: NDArray[np.int32],
        boundary: NDArray[np.bool_],
    ) -> None:
        self._episode_step = episode_step
        self._boundary = boundary
        self._storage.write(
            self._time % self._slots, obs=obs, episode_step=episode_step, boundary=boundary
        )

    # Saving: state, and rows in pieces ----------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything but the rows: those are had by `times` and `read`."""
        return {
            "slots": self._slots,
            "num_envs": self.num_envs,
            "time": self._time,
            "episode_step": torch.from_numpy(self._episode_step.copy()),
            "boundary": torch.from_numpy(self._boundary.copy()),
            "rng": plain(self.rng),
            "sampler": None if self._by_priority is None else self._by_priority.state_dict(),
        }

    def check_size(self, state: dict[str, Any]) -> None:
        """See whether a state fits.

        Raises:
            ValueError: If it is of a replay of another size.
        """
        for name, ours in {"slots": self._slots, "num_envs": self.num_envs}.items():
            if state[name] != ours:
                raise ValueError(f"{name} is {ours} here, {state[name]} there")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; `fill` brings the rows back.

        Rows of a replay that had no priorities enter as new ones do.

        Raises:
            ValueError: If it is of a replay of another size.
        """
        self.check_size(state)
        self._time = state["time"]
        self._episode_step = state["episode_step"].numpy().copy()
        self._boundary = state["boundary"].numpy().copy()
        self.rng = restored(state["rng"])
        if self._by_priority is not None:
            self._by_priority.begin(self._slots * self.num_envs, self._device)
            if state.get("sampler") is not None:
                self._by_priority.load_state_dict(state["sampler"])

    @property
    def times(self) -> range:
        """Numbers of the vector steps that are there, the pending one included."""
        return range(max(0, self._time - self._slots + 1), self._time + 1)

    @property
    def step_bytes(self) -> int:
        """Bytes of one vector step."""
        return self._storage.slot_bytes

    def read(self, times: range) -> dict[str, Tensor]:
        """A copy of these vector steps, all of which are there: columns [T, N, …]."""
        parts = [self._storage.read(slots) for slots in self._slots_of(times)]
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def fill(self, times: range, columns: dict[str, Tensor]) -> None:
        """Put vector steps [T, N, …] back where they were; those before `times` are passed over."""
        skipped = max(0, self.times.start - times.start)
        times = times[skipped:]
        for slots in self._slots_of(times):
            rows = {
                name: column[skipped : skipped + len(slots)] for name, column in columns.items()
            }
            self._storage.fill(slots.start, rows)
            skipped += len(slots)

    def adopt(self, columns: dict[str, Tensor]) -> None:
        """Add vector steps of another replay [T, N, …] before the pending one.

        Their episodes are cut at the last step as by a time limit: of that one only the
        observations count, as those of a boundary row. Frames from before the first are not asked
        for.
        """
        length = len(columns["obs"])
        slot = self._time % self._slots
        newest = self._storage.read(range(slot, slot + 1))
        pending = {name: newest[name][0] for name in ("obs", "episode_step", "boundary")}
        rows = {name: column.clone() for name, column in columns.items()}
        steps_here = torch.arange(length, dtype=torch.int32)[:, None]
        rows["episode_step"] = torch.minimum(rows["episode_step"], steps_here)
        rows["boundary"][-1] = True
        if length > 1:
            open_ended = ~(rows["terminated"][-2] | rows["boundary"][-2])
            rows["truncated"][-2] |= open_ended
        times = range(self._time, self._time + length)
        self._time = times.stop
        self.fill(times, rows)
        self._storage.write(self._time % self._slots, **pending)

    def _slots_of(self, times: range) -> list[range]:
        """Where these vector steps lie in the ring: one run of slots, or two if they wrap."""
        if not times:
            return []
        start, stop = times.start % self._slots, times.stop % self._slots or self._slots
        if start < stop:
            return [range(start, stop)]
        return [range(start, self._slots), range(stop)]

    # What the environments wait at --------------------------------------------------------------

    @property
    def pending_boundary(self) -> NDArray[np.bool_]:
        """Which environments reset in their next step [N], whatever the action."""
        return self._boundary

    @property
    def pending_episode_step(self) -> NDArray[np.int32]:
        """Steps since the episode's start, in each environment [N]. A view: read it at once."""
        return self._episode_step

    def current_obs(self) -> Observations:
        """The newest observations [N, …], stacked as in a batch. A view: read it at once."""
        if self.frame_stack == 1:
            return self._storage.obs(self._time % self._slots)
        first = self._time * self.num_envs
        rows = np.arange(first, first + self.num_envs)
        stacked = self._stacked(rows, self._position(rows))
        return stacked.numpy() if stacked.device.type == "cpu" else stacked

    def newest(self, column: str) -> NDArray[Any]:
        """What the newest complete row of each environment has there [N]. A view."""
        return self._storage.slot(column, (self._time - 1) % self._slots)

    # Drawing ------------------------------------------------------------------------------------

    @property
    def rows(self) -> range:
        """Numbers of the complete rows that are still there, boundary rows included."""
        oldest = max(0, self._time - self._slots + 1)
        return range(oldest * self.num_envs, self._time * self.num_envs)

    def drawable(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of these complete rows [B] can be drawn: a mask [B].

        A row can be drawn if it is no boundary row, the frames of its stack are still there, and
        its window is closed: its n-th step, or the end of its episode, has happened.
        """
        position = self._position(rows)
        mask: NDArray[np.bool_] = ~self._storage.take("boundary", position)
        if self.frame_stack > 1:
            step = self._storage.take("episode_step", position)
            history = np.minimum(step, self.frame_stack - 1) * self.num_envs
            mask &= rows - history >= self.rows.start
        if self.n_step > 1:
            num_steps = self._alive(rows).sum(1)
            mask &= rows + (num_steps - 1) * self.num_envs < self.rows.stop
        return mask

    def draw(self, batch_size: int, env_steps: int = 0) -> Batch:
        """Draw a batch by the sampler, so many environment steps into the run.

        Raises:
            RuntimeError: If nothing can be drawn, or too little without replacement.
            ValueError: If n has become too great for the capacity.
        """
        if self._n_schedule is not None:
            self.n_step = steps_at(self._n_schedule, env_steps)
            self._check_window()
        batch = self.gather(*self.sampler.draw(self._pool(env_steps), batch_size))
        for augmentation in self.augmentations:
            batch = augmentation(batch, self.rng)
        return batch

    def _pool(self, env_steps: int) -> Pool:
        num_envs = self.num_envs
        newest, oldest = (self.n_step - 1) * num_envs, (self.frame_stack - 1) * num_envs
        return Pool(self.rows, self.drawable, self.rng, num_envs, newest, oldest, env_steps)

    def chances(self) -> NDArray[np.float64]:
        """How likely each of `rows` is to be drawn [R], as at the last draw. Looks at all."""
        return self.sampler.chances(self._pool(env_steps=0))

    @property
    def has_priorities(self) -> bool:
        """Whether rows are drawn by priorities that `set_priorities` wants to be told."""
        return self._by_priority is not None

    def set_priorities(self, rows: Rows | Tensor, priority: NDArray[Any] | Tensor) -> None:
        """Give rows [B] new priorities [B]; nothing happens to those overwritten meanwhile."""
        if self._by_priority is not None:
            self._by_priority.update(rows, priority, self.rows)

    def gather(self, rows: Rows, weight: NDArray[np.float32] | None = None) -> Batch:
        """The transitions that start at these drawable rows [B], of weights [B] or 1.

        reward = sum of gamma^j r_{t+1+j} over the window of k ≤ n steps; next_obs = obs_{t+k};
        discount = gamma^k, or 0 if the last of these steps terminated the episode and terminal
        observations are not bootstrapped from.
        """
        position = self._position(rows)
        bootstrap: Any  # what the next value counts for, unless nothing follows
        if self.n_step == 1:
            reward = self._storage.take("reward", position)
            terminated = self._storage.take("terminated", position)
            bootstrap = np.float32(self.gamma)
            next_rows = rows + self.num_envs
        else:
            alive = self._alive(rows)  # [B, n]
            gammas = self.gamma ** np.arange(self.n_step + 1)
            rewards = self._window("reward", rows) * alive * gammas[:-1]
            reward = rewards.sum(1).astype(np.float32)
            terminated = np.any(self._window("terminated", rows) & alive, axis=1)
            num_steps = alive.sum(1)
            bootstrap = gammas[num_steps].astype(np.float32)
            next_rows = rows + num_steps * self.num_envs
        if self.bootstrap_terminal:
            terminated = np.zeros_like(terminated)
        discount = ~terminated * bootstrap
        to_device = self._storage.to_device
        return Batch(
            obs=self._stacked(rows, position),
            action=to_device(self._storage.take("action", position)),
            reward=to_device(reward),
            discount=to_device(discount),
            next_obs=self._stacked(next_rows, self._position(next_rows)),
            weight=to_device(np.ones_like(reward) if weight is None else weight),
            row=to_device(rows),
        )

    # Views of the ring --------------------------------------------------------------------------

    def _position(self, rows: Rows) -> Rows:
        return rows % (self._slots * self.num_envs)

    def _window(self, column: str, rows: Rows) -> NDArray[Any]:
        """A column at the n rows from each row on [B, n]. Beyond the newest it holds old values."""
        window = rows[:, None] + np.arange(self.n_step) * self.num_envs
        return self._storage.take(column, self._position(window))

    def _alive(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of the n steps from each row on belong to its window [B, n].

        A window ends with the first step that ended the episode. What old values behind the
        newest row say does not matter: `drawable` refuses any window that reaches them.
        """
        ended = self._window("terminated", rows) | self._window("truncated", rows)
        alive: NDArray[np.bool_] = np.ones_like(ended)
        np.logical_not(np.logical_or.accumulate(ended[:, :-1], axis=1), out=alive[:, 1:])
        return alive

    def _stacked(self, rows: Rows, position: Rows) -> Tensor:
        """Observations of these rows with their stacks [B, …]; the one function that stacks."""
        if self.frame_stack == 1:
            return self._storage.take_obs(position)
        step = self._storage.take("episode_step", position)
        age = np.arange(self.frame_stack - 1, -1, -1)
        back = np.minimum(age, step[:, None])  # [B, S], 0 for the newest frame
        position = self._position(rows[:, None] - back * self.num_envs)
        frames = self._storage.take_obs(position.reshape(-1))  # [B * S, C, …]
        return frames.view(len(rows), -1, *frames.shape[2:])  # [B, S * C, …]
