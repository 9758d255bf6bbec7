"""Steps the environments and writes what happens into the replay."""

from collections.abc import Iterable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from dqn_lightning.actor import EpsilonGreedy
from dqn_lightning.envs.state import CannotRestoreError, load_vector_state, vector_state
from dqn_lightning.errors import EnvironmentFailure
from dqn_lightning.plain import NotPlainError
from dqn_lightning.replay import ReplayBuffer
from dqn_lightning.types import Act, Episode


class Counts(NamedTuple):
    """Environment steps (boundary rows not counted) of the run, and finished episodes of this rank.

    Where several ranks step their environments, each counts its own steps so many times, which is
    near enough to all of them and takes no message.
    """

    env_steps: int
    episodes: int


class Collector:
    """Owner of the environments: steps them, counts, and hands out finished episodes.

    Args:
        envs: A vector environment in `AutoresetMode.NEXT_STEP`.
        replay: Where each row is written.
        actor: Chooses the actions.
        num_ranks: How many ranks step environments like these.
        reward_clip: Rewards are learnt from as clipped to ± this, or as they are.
        reward_scale: They are then multiplied by it. Returns of episodes are of the true ones.

    Attributes:
        acting_s: Seconds that actions have taken.
        stepping_s: Seconds that the environments have taken.
        returns: Undiscounted sums of the running episodes' rewards so far [N].
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        replay: ReplayBuffer,
        actor: EpsilonGreedy,
        num_ranks: int = 1,
        reward_clip: float | None = None,
        reward_scale: float = 1.0,
    ) -> None:
        self.envs = envs
        self.replay = replay
        self.actor = actor
        self.num_ranks = num_ranks
        self.reward_clip = reward_clip
        self.reward_scale = reward_scale
        self.counts = Counts(0, 0)
        self.episodes_before_step = 0
        self.acting_s = 0.0
        self.stepping_s = 0.0
        self.returns = np.zeros(envs.num_envs)

    def reset(self, seed: int) -> None:
        """Start a run: new episodes, no rows, counts of 0; environment i gets the seed + i."""
        obs, _ = self.envs.reset(seed=seed)
        self.replay.begin(obs)
        self.counts = Counts(0, 0)
        self.episodes_before_step = 0
        self.returns[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """Counts, running episodes, and the state of everything it works with; no rows."""
        return {
            "counts": list(self.counts),
            "episodes_before_step": self.episodes_before_step,
            "returns": torch.from_numpy(self.returns.copy()),
            "actor": self.actor.state_dict(),
            "replay": self.replay.state_dict(),
            "envs": self._envs_state(),
        }

    def _envs_state(self) -> dict[str, Any] | None:
        try:
            return vector_state(self.envs)
        except NotPlainError:
            return None

    def load_state_dict(
        self, state: dict[str, Any], rows: Iterable[tuple[range, dict[str, Tensor]]]
    ) -> str | None:
        """Go on from there.

        Environments that cannot be brought back are reset, and their episodes cut in the replay
        as by a time limit.

        Args:
            state: What `state_dict` gave.
            rows: The replay's, piece by piece, as `ReplayBuffer.read` gave them.

        Returns:
            Why environments had to be reset, or None.

        Raises:
            ValueError: If the replay was of another size.
        """
        self.replay.load_state_dict(state["replay"])
        for times, columns in rows:
            self.replay.fill(times, columns)
        self.actor.load_state_dict(state["actor"])
        self.counts = Counts(*state["counts"])
        self.episodes_before_step = state["episodes_before_step"]
        self.returns[:] = state["returns"].numpy()
        try:
            if state["envs"] is None:
                raise CannotRestoreError("these environments cannot give their state")
            load_vector_state(self.envs, state["envs"])
        except CannotRestoreError as error:
            obs, _ = self.envs.reset()
            self.replay.restart(obs)
            self.returns[:] = 0
            return str(error)
        return None

    def step(self, act: Act) -> list[Episode]:
        """Step every environment once.

        Returns:
            The episodes that ended in this step, in the order of the environments.

        Raises:
            EnvironmentFailure: If an environment raised; its exception is the cause.
        """
        self.episodes_before_step = self.counts.episodes
        boundary = self.replay.pending_boundary
        num_envs, num_boundary = len(boundary), int(np.count_nonzero(boundary))
        started = perf_counter()
        if num_boundary == num_envs:  # all reset now, whatever the action: the actor is not asked
            actions = np.zeros(num_envs, np.int64)
        else:
            actions = self.actor(act, self.replay.current_obs(), self.counts.env_steps)
        acted = perf_counter()
        try:
            obs, reward, terminated, truncated, _ = self.envs.step(actions)
        except EnvironmentFailure as error:  # says which; what it raised is the cause
            raise self._failure(str(error)) from error.__cause__ or error
        except Exception as error:
            which = "environment 0" if num_envs == 1 else "the vector environment"
            what = f"{which} raised {type(error).__name__}: {error}"
            raise self._failure(what) from error
        self.acting_s += acted - started
        self.stepping_s += perf_counter() - acted
        self.returns += reward
        if self.reward_clip is not None:
            reward = np.clip(reward, -self.reward_clip, self.reward_clip)
        if self.reward_scale != 1:
            reward = reward * self.reward_scale
        self.replay.write(actions, reward, terminated, truncated, obs)
        env_steps = self.counts.env_steps + self.num_ranks * (num_envs - num_boundary)
        ended = self.replay.pending_boundary
        episodes = self._finished(ended, env_steps) if np.count_nonzero(ended) else []
        self.counts = Counts(env_steps, self.counts.episodes + len(episodes))
        return episodes

    def _failure(self, what: str) -> EnvironmentFailure:
        return EnvironmentFailure(f"after environment step {self.counts.env_steps}, {what}")

    def _finished(self, ended: np.ndarray[Any, Any], env_steps: int) -> list[Episode]:
        durations = self.replay.pending_episode_step
        episodes = [
            Episode(int(i), int(durations[i]), float(self.returns[i]), env_steps)
            for i in ended.nonzero()[0]
        ]
        self.returns[ended] = 0
        return episodes
