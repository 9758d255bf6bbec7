"""CartPole seen as the PyTorch tutorial sees it: the part of the screen around the cart."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from numpy.typing import NDArray
from PIL import Image

from dqn_lightning.envs.cartpole_painter import CartPolePainter, can_draw, in_grey
from dqn_lightning.errors import ConfigError

_TOP, _BOTTOM = 0.4, 0.8
"""The rows that are kept, as shares of the height: the track and the pole, little else."""

_VIEW = 0.6
"""Width of the window around the cart, as a share of the screen's."""

_RENDER_AS_IT_IS = {gym.Wrapper.render, OrderEnforcing.render, PassiveEnvChecker.render}


class CartPoleScreen(gym.ObservationWrapper[Any, Any, Any]):
    """Observations are the screen around the cart, uint8, in place of the state.

    The window is centred on the cart and pushed back inside the screen near its edges, then made
    smaller (bicubic, antialiased). On the screen of 400 x 600 a height of 40 makes a width of 90.

    Of Gymnasium's own CartPole only the window is drawn (`CartPolePainter`), equal to the bit. Any
    other is rendered, and so is one whose picture a wrapper inside this one changes.

    Args:
        env: Any CartPole with `render_mode="rgb_array"`.
        height: Rows of the observation.
        grey: Whether it is [height, width, 1], as GrayscaleObservation would make it, and not
            [height, width, 3].

    Raises:
        ConfigError: If the environment is no CartPole, or does not draw, or there are no rows.
    """

    def __init__(self, env: gym.Env[Any, Any], height: int = 40, grey: bool = False) -> None:
        super().__init__(env)
        cartpole: Any = env.unwrapped
        if not hasattr(cartpole, "x_threshold") or not hasattr(cartpole, "screen_width"):
            raise ConfigError(f"data.wrappers: CartPoleScreen needs a CartPole, not {env}")
        if env.render_mode != "rgb_array":
            raise ConfigError(
                "data.wrappers: CartPoleScreen needs an environment that draws; "
                "add --data.env_kwargs.render_mode rgb_array"
            )
        if height < 1:
            raise ConfigError(
                f"data.wrappers: CartPoleScreen's height must be at least 1, not {height}"
            )
        self._cartpole = cartpole
        rows = int(cartpole.screen_height * _BOTTOM) - int(cartpole.screen_height * _TOP)
        width = height * int(cartpole.screen_width * _VIEW) // rows
        self._size = width, height
        self._grey = grey
        self.observation_space = spaces.Box(0, 255, (height, width, 1 if grey else 3), np.uint8)
        self._painter: CartPolePainter | None = None
        if can_draw(cartpole, width) and _draws_itself(env):
            self._painter = CartPolePainter.shared(width, height, grey)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        """The screen around the cart as it is now, whatever the state."""
        # Asked each time, for a wrapper may give every episode a pole of another length.
        if self._painter and can_draw(self._cartpole, self._size[0]):
            position, _, angle, _ = self._cartpole.state
            return self._painter(float(position), float(angle))
        return self._rendered()

    def _rendered(self) -> NDArray[np.uint8]:
        screen: Any = self.env.render()
        patch = around_cart(screen, self._cartpole.state[0], 2 * self._cartpole.x_threshold)
        picture = Image.fromarray(patch).resize(self._size, Image.Resampling.BICUBIC)
        colours = np.asarray(picture)
        return in_grey(colours) if self._grey else colours


def _draws_itself(env: gym.Env[Any, Any]) -> bool:
    """Whether what is rendered is the environment's own picture, not one that a wrapper made."""
    while isinstance(env, gym.Wrapper):
        if type(env).render not in _RENDER_AS_IT_IS:
            return False
        env = env.env
    return True


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
