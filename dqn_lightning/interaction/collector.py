"""Step the environments and write the transitions to the replay."""

import os
from collections.abc import Iterable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from dqn_lightning.checkpointing.serialization import NotSerializableError
from dqn_lightning.envs.state import NotRestorableError, load_vector_state, vector_state
from dqn_lightning.errors import EnvironmentFailure
from dqn_lightning.interaction.actor import EpsilonGreedy
from dqn_lightning.replay import ReplayBuffer
from dqn_lightning.types import Episode, Policy, RunProgress


class Collector:
    """Component that steps the environments and writes the transitions to the replay.

    Args:
        envs: A vector environment in `AutoresetMode.NEXT_STEP`.
        replay: Replay to write to.
        actor: Actor that selects the actions.
        num_ranks: Number of ranks, by which the environment steps of this rank are multiplied to
            count the steps of all ranks.
        reward_clip: Maximum absolute value to which rewards are clipped before they are written to
            the replay; no clipping if None.
        reward_scale: Factor by which rewards are multiplied after clipping, before they are written
            to the replay. Episode returns are computed from the original rewards.
        progress: Counts of environment steps and episodes, updated by each call of `step`; a new
            `RunProgress` if None.

    Attributes:
        acting_s: Total time spent selecting actions, in seconds.
        stepping_s: Total time spent stepping the environments, in seconds.
        returns: Undiscounted returns so far [N] for the episodes in progress.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        replay: ReplayBuffer,
        actor: EpsilonGreedy,
        num_ranks: int = 1,
        reward_clip: float | None = None,
        reward_scale: float = 1.0,
        progress: RunProgress | None = None,
    ) -> None:
        self.envs = envs
        self.replay = replay
        self.actor = actor
        self.num_ranks = num_ranks
        self.reward_clip = reward_clip
        self.reward_scale = reward_scale
        self.progress = progress or RunProgress()
        self.acting_s = 0.0
        self.stepping_s = 0.0
        self.returns = np.zeros(envs.num_envs)
        self._working_directory = os.getcwd()

    def reset(self, seed: int) -> None:
        """Reset environments, replay and counts. Environment i is seeded with `seed + i`.

        Raises:
            EnvironmentFailure: If an environment failed, or returned an invalid observation.
        """
        obs, _ = self.envs.reset(seed=seed)
        self.replay.reset(obs)
        progress = self.progress
        progress.env_steps = progress.episodes = progress.episodes_before_step = 0
        self.returns[:] = 0

    def restart_episodes(self, seed: int | None = None) -> None:
        """Reset all environments; in the replay, truncate the episodes in progress.

        Args:
            seed: Seed for the first environment; environment i is seeded with `seed + i`. If None,
                the environments keep their random generators.
        """
        obs, _ = self.envs.reset(seed=seed)
        self.replay.restart_episodes(obs)
        self.returns[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the environments and the actor, and of the replay without its rows.

        The rows are saved separately; `ReplayBuffer.read` returns them.

        Raises:
            EnvironmentFailure: If a worker process ended, or an environment changed the working
                directory.
        """
        self._check_working_directory()
        return {
            "returns": torch.from_numpy(self.returns.copy()),
            "actor": self.actor.state_dict(),
            "replay": self.replay.state_dict(),
            "envs": self._envs_state(),
        }

    def _envs_state(self) -> dict[str, Any] | None:
        try:
            return vector_state(self.envs)
        except NotSerializableError:
            return None

    def load_state_dict(
        self, state: dict[str, Any], rows: Iterable[tuple[range, dict[str, Tensor]]]
    ) -> str | None:
        """Restore the environments, the actor, and the replay with its rows.

        If the environments cannot be restored, they are reset, and the episodes in progress are
        truncated in the replay.

        Args:
            state: State returned by `state_dict`.
            rows: Rows of the replay in chronological order. Each item consists of a range of vector
                steps (steps of all environments) and the columns that `ReplayBuffer.read` returned
                for this range.

        Returns:
            The reason why the environments were reset, or None if they were restored.

        Raises:
            ValueError: If the saved replay has a different size, or the rows belong to another run.
        """
        self.replay.load_state_dict(state["replay"])
        for times, columns in rows:
            self.replay.load_rows(times, columns)
        self.actor.load_state_dict(state["actor"])
        self.returns[:] = state["returns"].numpy()
        try:
            if state["envs"] is None:
                raise NotRestorableError("the state of these environments could not be saved")
            load_vector_state(self.envs, state["envs"])
        except NotRestorableError as error:
            self.restart_episodes()
            return str(error)
        return None

    def step(self, act: Policy) -> list[Episode]:
        """Step every environment once.

        Args:
            act: Greedy policy: maps observations [N, …] to actions [N].

        Returns:
            The episodes that ended in this step, ordered by environment.

        Raises:
            EnvironmentFailure: If an environment raised an exception, which is the `__cause__`; or
                if it returned invalid values, its worker process was lost, or it changed the
                working directory.
        """
        progress = self.progress
        progress.episodes_before_step = progress.episodes
        is_reset = self.replay.pending_is_reset
        num_envs, num_resetting = len(is_reset), int(np.count_nonzero(is_reset))
        started = perf_counter()
        if num_resetting == num_envs:  # all environments ignore their action
            actions = np.zeros(num_envs, np.int64)
        else:
            actions = self.actor(act, self.replay.current_obs(), progress.env_steps)
        acted = perf_counter()
        try:
            obs, reward, terminated, truncated, _ = self.envs.step(actions)
        except EnvironmentFailure as error:  # names the environment; its cause is the exception
            raise self._failure(str(error)) from error.__cause__
        except (Exception, SystemExit) as error:
            which = "environment 0" if num_envs == 1 else "the vector environment"
            message = f"{which} raised {type(error).__name__}: {error}"
            raise self._failure(message) from error
        self.acting_s += acted - started
        self.stepping_s += perf_counter() - acted
        self.returns += reward
        if self.reward_clip is not None:
            reward = np.clip(reward, -self.reward_clip, self.reward_clip)
        if self.reward_scale != 1:
            reward = reward * self.reward_scale
        self.replay.write(actions, reward, terminated, truncated, obs)
        progress.env_steps += self.num_ranks * (num_envs - num_resetting)
        ended = self.replay.pending_is_reset
        if not np.count_nonzero(ended):
            return []
        episodes = self._finished_episodes(ended)
        progress.episodes += len(episodes)
        self._check_working_directory()
        return episodes

    def _check_working_directory(self) -> None:
        """Restore the working directory and raise an error if an environment has changed it.

        The files of a run have relative paths. The check takes 1 µs, too long for every step.
        """
        if (changed := os.getcwd()) != self._working_directory:
            os.chdir(self._working_directory)
            raise self._failure(
                f"an environment changed the working directory to {changed} (os.chdir), but the "
                "run uses relative paths; use data.env.vectorization async, where every "
                "environment has its own working directory"
            )

    def _failure(self, message: str) -> EnvironmentFailure:
        return EnvironmentFailure(f"after environment step {self.progress.env_steps}, {message}")

    def _finished_episodes(self, ended: np.ndarray[Any, Any]) -> list[Episode]:
        lengths = self.replay.pending_episode_step
        episodes = [
            Episode(int(i), int(lengths[i]), float(self.returns[i]), self.progress.env_steps)
            for i in ended.nonzero()[0]
        ]
        self.returns[ended] = 0
        return episodes
