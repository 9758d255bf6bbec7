"""CartPole seen as the PyTorch tutorial sees it: the part of the screen around the cart."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from dqn_lightning.errors import ConfigError

_TOP, _BOTTOM = 0.4, 0.8
"""The rows that are kept, as shares of the height: the track and the pole, little else."""

_VIEW = 0.6
"""Width of the window around the cart, as a share of the screen's."""


class CartPoleScreen(gym.ObservationWrapper[Any, Any, Any]):
    """Observations are the screen around the cart [height, width, 3], uint8, in place of the state.

    The window is centred on the cart and pushed back inside the screen near its edges, then made
    smaller (bicubic, antialiased). On the screen of 400 x 600 a height of 40 makes a width of 90.

    Args:
        env: Any CartPole with `render_mode="rgb_array"`.
        height: Rows of the observation.

    Raises:
        ConfigError: If the environment is no CartPole, or does not draw.
    """

    def __init__(self, env: gym.Env[Any, Any], height: int = 40) -> None:
        super().__init__(env)
        cartpole: Any = env.unwrapped
        if not hasattr(cartpole, "x_threshold") or not hasattr(cartpole, "screen_width"):
            raise ConfigError(f"data.wrappers: CartPoleScreen needs a CartPole, not {env}")
        if env.render_mode != "rgb_array":
            raise ConfigError(
                "data.wrappers: CartPoleScreen needs an environment that draws; "
                "add --data.env_kwargs.render_mode rgb_array"
            )
        self._cartpole = cartpole
        rows = int(cartpole.screen_height * _BOTTOM) - int(cartpole.screen_height * _TOP)
        width = height * int(cartpole.screen_width * _VIEW) // rows
        self._size = width, height
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        """The screen around the cart as it is now, whatever the state."""
        screen: Any = self.env.render()
        patch = around_cart(screen, self._cartpole.state[0], 2 * self._cartpole.x_threshold)
        picture = Image.fromarray(patch)
        return np.asarray(picture.resize(self._size, Image.Resampling.BICUBIC))


def around_cart(screen: NDArray[np.uint8], position: float, track: float) -> NDArray[np.uint8]:
    """The part of a screen [H, W, 3] around the cart, at the screen's own resolution.

    Args:
        screen: The picture that CartPole renders.
        position: Of the cart; 0 is the middle of the screen.
        track: Length that the screen is wide, in the position's unit.
    """
    height, width, _ = screen.shape
    view = int(width * _VIEW)
    cart = int(position * (width / track) + width / 2)  # its middle, in pixels
    left = min(max(cart - view // 2, 0), width - view)
    rows = slice(int(height * _TOP), int(height * _BOTTOM))
    return np.ascontiguousarray(screen[rows, left : left + view])
