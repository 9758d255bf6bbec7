"""A naive reference implementation of the replay: plain Python, one environment, no ring."""

from typing import Any, NamedTuple


class Row(NamedTuple):
    obs: float
    action: int
    reward: float
    terminated: bool
    truncated: bool
    is_reset: bool
    episode: int


class NaiveReplay:
    """All rows of one environment; `pending` is its current observation."""

    def __init__(self, slots: int, gamma: float, n_step: int, frame_stack: int) -> None:
        self.slots, self.gamma, self.n, self.frames = slots, gamma, n_step, frame_stack
        self.rows: list[Row] = []

    def reset(self, obs: float) -> None:
        self.rows = []
        self.pending, self.episode, self.pending_is_reset = obs, 0, False

    def write(
        self, action: int, reward: float, terminated: bool, truncated: bool, obs: float
    ) -> None:
        self.rows.append(
            Row(
                self.pending,
                action,
                reward,
                terminated,
                truncated,
                self.pending_is_reset,
                self.episode,
            )
        )
        if self.pending_is_reset:
            self.episode += 1
        self.pending, self.pending_is_reset = obs, terminated or truncated

    def restart_episodes(self, obs: float) -> None:
        if self.rows:
            last = self.rows[-1]
            if not (last.terminated or last.truncated or last.is_reset):
                self.rows[-1] = last._replace(truncated=True)
        self.pending_is_reset = True
        self.write(0, 0.0, False, False, obs)

    def obs(self, t: int) -> float:
        return self.pending if t == len(self.rows) else self.rows[t].obs

    def episode_of(self, t: int) -> int:
        return self.episode if t == len(self.rows) else self.rows[t].episode

    def stack(self, t: int) -> list[int]:
        """Return the times of the stacked frames, oldest first. The episode's first is repeated."""
        times = [t]
        while len(times) < self.frames:
            before = times[0] - 1
            same = before >= 0 and self.episode_of(before) == self.episode_of(t)
            times.insert(0, before if same else times[0])
        return times

    def window(self, t: int) -> int | None:
        """Return the number of steps of the n-step return, or None if it is incomplete."""
        for k in range(1, self.n + 1):
            if t + k - 1 >= len(self.rows):
                return None
            row = self.rows[t + k - 1]
            if row.terminated or row.truncated:
                return k
        return self.n

    def samplable(self, t: int) -> bool:
        oldest = max(0, len(self.rows) - self.slots + 1)
        return (
            oldest <= t < len(self.rows)
            and not self.rows[t].is_reset
            and min(self.stack(t)) >= oldest
            and self.window(t) is not None
        )

    def transition(self, t: int) -> dict[str, Any]:
        k = self.window(t)
        assert k is not None
        last = self.rows[t + k - 1]
        return {
            "obs": [self.obs(i) for i in self.stack(t)],
            "action": self.rows[t].action,
            "reward": sum(self.gamma**j * self.rows[t + j].reward for j in range(k)),
            "discount": 0.0 if last.terminated else self.gamma**k,
            "next_obs": [self.obs(i) for i in self.stack(t + k)],
        }
