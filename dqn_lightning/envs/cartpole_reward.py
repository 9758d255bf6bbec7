"""CartPole's reward as MorvanZhou's script shapes it."""

from typing import Any

import gymnasium as gym

from dqn_lightning.errors import ConfigError


class CartPoleShapedReward(gym.Wrapper[Any, Any, Any, Any]):
    """The reward is the larger, the nearer the cart is to the middle and the pole to upright.

    (X - |x|) / X - 0.8 + (T - |theta|) / T - 0.5 of the next state, where X and T are the position
    and the angle at which an episode ends: 0.7 at best, and below 0 near the ends.

    Args:
        env: Any CartPole whose observations are its state.

    Raises:
        ConfigError: If the environment is none.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        cartpole: Any = env.unwrapped
        if not hasattr(cartpole, "theta_threshold_radians") or env.observation_space.shape != (4,):
            raise ConfigError(
                f"data.wrappers: CartPoleShapedReward needs a CartPole and its state, not {env}"
            )
        self._end_x: float = cartpole.x_threshold
        self._end_theta: float = cartpole.theta_threshold_radians

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; the reward that CartPole gives is not used."""
        obs, _, terminated, truncated, info = self.env.step(action)
        x, _, theta, _ = obs.tolist()
        centred = (self._end_x - abs(x)) / self._end_x - 0.8
        upright = (self._end_theta - abs(theta)) / self._end_theta - 0.5
        return obs, centred + upright, terminated, truncated, info
