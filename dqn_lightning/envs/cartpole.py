"""CartPole wrappers used by the tutorials: images of the cart's surroundings, shaped reward."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from numpy.typing import NDArray
from PIL import Image

from dqn_lightning.envs.cartpole_painter import CartPolePainter, can_draw, to_grayscale
from dqn_lightning.errors import ConfigError

_TOP, _BOTTOM = 0.4, 0.8
"""First and last row of the window (track and pole), as fractions of the screen's height."""

_VIEW = 0.6
"""Width of the window around the cart, as a fraction of the screen's width."""

_UNCHANGED_RENDER = {gym.Wrapper.render, OrderEnforcing.render, PassiveEnvChecker.render}
"""Implementations of `render` that return the frame of the wrapped environment unchanged."""


class CartPoleScreen(gym.ObservationWrapper[Any, Any, Any]):
    """Wrapper that replaces observations with uint8 images of a window around the cart.

    The window is part of the rendered screen. It is centered on the cart but stays inside the
    screen, and is downsampled (bicubic, antialiased). If the screen has 400 rows and 600 columns of
    pixels (the default), a height of 40 results in a width of 90.

    For Gymnasium's own CartPole, `CartPolePainter` draws only the window, with identical pixels.
    The whole screen is rendered if CartPole was modified or subclassed, or if an inner wrapper
    changes the rendered frame.

    Args:
        env: A CartPole environment with `render_mode="rgb_array"`.
        height: Height of the observation in pixels; it determines the width.
        grayscale: Whether to return grayscale images [height, width, 1], identical to those of
            `GrayscaleObservation`, instead of RGB images [height, width, 3].

    Raises:
        ConfigError: If the environment is not CartPole or has another render mode, or if `height`
            is less than 1.
    """

    def __init__(self, env: gym.Env[Any, Any], height: int = 40, grayscale: bool = False) -> None:
        super().__init__(env)
        cartpole: Any = env.unwrapped
        if not hasattr(cartpole, "x_threshold") or not hasattr(cartpole, "screen_width"):
            raise ConfigError(f"data.env.wrappers: CartPoleScreen needs CartPole, got {env}")
        if env.render_mode != "rgb_array":
            raise ConfigError(
                "data.env.wrappers: CartPoleScreen needs rendered frames; "
                "add --data.env.kwargs.render_mode rgb_array"
            )
        if height < 1:
            raise ConfigError(
                f"data.env.wrappers: height of CartPoleScreen must be at least 1, got {height}"
            )
        self._cartpole = cartpole
        rows = int(cartpole.screen_height * _BOTTOM) - int(cartpole.screen_height * _TOP)
        width = height * int(cartpole.screen_width * _VIEW) // rows
        self._height, self._width = height, width
        self._grayscale = grayscale
        self.observation_space = spaces.Box(
            0, 255, (height, width, 1 if grayscale else 3), np.uint8
        )
        self._painter: CartPolePainter | None = None
        if can_draw(cartpole, width) and _renders_unchanged(env):
            self._painter = CartPolePainter.shared(width, height, grayscale)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        """Return the current image [height, width, 1 or 3] of the window; ignore the argument."""
        # Checked each time, because a wrapper may change the pole's length in each episode.
        if self._painter and can_draw(self._cartpole, self._width):
            position, _, angle, _ = self._cartpole.state
            return self._painter(float(position), float(angle))
        return self._render_window()

    def _render_window(self) -> NDArray[np.uint8]:
        from torchvision.transforms import InterpolationMode  # takes a second to import
        from torchvision.transforms.v2 import functional

        screen: Any = self.env.render()
        track = 2 * self._cartpole.x_threshold
        window = crop_around_cart(Image.fromarray(screen), self._cartpole.state[0], track)
        size = [self._height, self._width]
        image = functional.resize(window, size, InterpolationMode.BICUBIC)  # calls PIL
        colors = np.asarray(image)
        return to_grayscale(colors) if self._grayscale else colors


def _renders_unchanged(env: gym.Env[Any, Any]) -> bool:
    """Return whether no wrapper changes the environment's rendered frame."""
    while isinstance(env, gym.Wrapper):
        if type(env).render not in _UNCHANGED_RENDER:
            return False
        env = env.env
    return True


def crop_around_cart(screen: Image.Image, position: float, track: float) -> Image.Image:
    """Return the window around the cart as a crop of a rendered frame, without resizing it.

    Args:
        screen: Frame rendered by CartPole.
        position: Position of the cart; 0 is the center of the screen.
        track: Width of the screen, in the same units as `position`.
    """
    from torchvision.transforms.v2.functional import crop  # takes a second to import

    width, height = screen.size
    view = int(width * _VIEW)
    center = int(position * (width / track) + width / 2)  # of the cart, in pixels
    left = min(max(center - view // 2, 0), width - view)
    top = int(height * _TOP)
    window: Image.Image = crop(screen, top, left, int(height * _BOTTOM) - top, view)
    return window


class CartPoleShapedReward(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that rewards a cart near the center of the track and an upright pole.

    The reward is (X - |x|) / X - 0.8 + (T - |theta|) / T - 0.5. Here, x is the cart's position and
    theta is the pole's angle after the step. An episode terminates when |x| exceeds X or |theta|
    exceeds T. The reward is at most 0.7, and negative near these limits.

    Args:
        env: A CartPole environment whose observations are its state vector [4].

    Raises:
        ConfigError: If `env` is not CartPole, or its observations are not its state vector.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        cartpole: Any = env.unwrapped
        if not hasattr(cartpole, "theta_threshold_radians") or env.observation_space.shape != (4,):
            raise ConfigError(
                "data.env.wrappers: CartPoleShapedReward needs CartPole with its state as "
                f"observation, got {env}"
            )
        self._end_x: float = cartpole.x_threshold
        self._end_theta: float = cartpole.theta_threshold_radians

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step and replace the reward."""
        obs, _, terminated, truncated, info = self.env.step(action)
        x, _, theta, _ = obs.tolist()
        centered = (self._end_x - abs(x)) / self._end_x - 0.8
        upright = (self._end_theta - abs(theta)) / self._end_theta - 0.5
        return obs, centered + upright, terminated, truncated, info
