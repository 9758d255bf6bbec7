"""Vector environment for a single environment, without the overhead of `SyncVectorEnv`."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dqn_lightning.envs.checks import OutputCheck, raise_failure


class SingleVectorEnv(VectorEnv[Any, Any, Any]):
    """Vector environment that contains one environment, faster than `SyncVectorEnv`.

    Info dicts are empty. The environment resets in the step after the end of an episode. Each step
    overwrites the reward, terminated and truncated arrays returned by the previous step.

    Args:
        env: Environment to vectorize.

    Attributes:
        ended: Whether the last step ended an episode.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.num_envs = 1
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.spec = env.spec
        self.render_mode = env.render_mode
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, 1)
        self.action_space = batch_space(env.action_space, 1)
        self.ended = False
        self._check = OutputCheck(env.observation_space, env_index=0)
        self._reward = np.zeros(1)
        self._terminated = np.zeros(1, np.bool_)
        self._truncated = np.zeros(1, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `seed` may be a list with one element.

        Raises:
            EnvironmentFailure: If the environment raised an exception or returned an invalid
                observation.
        """
        seed = seed[0] if isinstance(seed, list) else seed
        try:
            obs, _ = self.env.reset(seed=seed, options=options)
        except (Exception, SystemExit) as error:
            raise_failure(0, error)
        self._check.obs(obs)
        self.ended = False
        return np.asarray(obs)[None], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step, or start the next episode if the last step ended an episode.

        Raises:
            EnvironmentFailure: If the environment raised an exception or returned invalid values.
        """
        reward: Any
        try:
            if self.ended:
                obs, _ = self.env.reset()
                reward, terminated, truncated = 0.0, False, False
            else:
                obs, reward, terminated, truncated, _ = self.env.step(actions.item())
        except (Exception, SystemExit) as error:
            raise_failure(0, error)
        self._check.step(obs, reward, terminated, truncated)
        self.ended = terminated or truncated
        self._reward[0], self._terminated[0], self._truncated[0] = reward, terminated, truncated
        return np.asarray(obs)[None], self._reward, self._terminated, self._truncated, {}

    def render(self) -> Any:
        """Return a tuple that contains the environment's rendered frame."""
        return (self.env.render(),)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        self.env.close()
