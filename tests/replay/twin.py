"""The replay once more, in plain Python, without a ring: every row is kept and looked at alone."""

from typing import Any, NamedTuple


class Row(NamedTuple):
    obs: float
    action: int
    reward: float
    terminated: bool
    truncated: bool
    boundary: bool
    episode: int


class Twin:
    """One environment's rows; `pending` is the newest observation, not yet acted upon."""

    def __init__(self, slots: int, gamma: float, n_step: int, frame_stack: int) -> None:
        self.slots, self.gamma, self.n, self.frames = slots, gamma, n_step, frame_stack
        self.rows: list[Row] = []

    def begin(self, obs: float) -> None:
        self.rows = []
        self.pending, self.episode, self.is_boundary = obs, 0, False

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
                self.is_boundary,
                self.episode,
            )
        )
        if self.is_boundary:
            self.episode += 1
        self.pending, self.is_boundary = obs, terminated or truncated

    def restart(self, obs: float) -> None:
        if self.rows:
            last = self.rows[-1]
            if not (last.terminated or last.truncated or last.boundary):
                self.rows[-1] = last._replace(truncated=True)
        self.is_boundary = True
        self.write(0, 0.0, False, False, obs)

    def obs(self, t: int) -> float:
        return self.pending if t == len(self.rows) else self.rows[t].obs

    def episode_of(self, t: int) -> int:
        return self.episode if t == len(self.rows) else self.rows[t].episode

    def stack(self, t: int) -> list[int]:
        """Times of the frames, the oldest first; the episode's first is repeated."""
        times = [t]
        while len(times) < self.frames:
            before = times[0] - 1
            same = before >= 0 and self.episode_of(before) == self.episode_of(t)
            times.insert(0, before if same else times[0])
        return times

    def window(self, t: int) -> int | None:
        """Steps of the return, or None while it is open."""
        for k in range(1, self.n + 1):
            if t + k - 1 >= len(self.rows):
                return None
            row = self.rows[t + k - 1]
            if row.terminated or row.truncated:
                return k
        return self.n

    def drawable(self, t: int) -> bool:
        oldest = max(0, len(self.rows) - self.slots + 1)
        return (
            oldest <= t < len(self.rows)
            and not self.rows[t].boundary
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
