"""CartPole's screen and its shaped reward."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from dqn_lightning import ConfigError
from dqn_lightning.envs import CartPoleScreen, CartPoleShapedReward, EnvFactory
from tests.helpers.tutorials.pytorch_tutorial import get_screen

EDGE = 2.4
"""Position at which an episode terminates."""

TURN = 0.96
"""Position at which the window stops following the cart."""


def recorded_states() -> list[Any]:
    """Return 200 states: 120 from random episodes, the others at and beyond the track's edges."""
    env = gym.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    states = []
    while len(states) < 120:
        _, _, ended, _, _ = env.step(int(rng.integers(2)))
        states.append(np.array(env.state))
        if ended:
            env.reset()
    places = [0.0, TURN, TURN - 1e-9, TURN + 1e-9, EDGE, EDGE + 0.1, 2.6, 1.7]
    for x in places:
        for sign in (-1, 1):
            for theta in (-0.25, -0.1, 0.0, 0.1, 0.25):
                states.append(np.array([sign * x, 0.0, theta, 0.0]))
    return states


def test_the_image_equals_that_of_the_tutorial() -> None:
    env = CartPoleScreen(gym.make("CartPole-v1", render_mode="rgb_array"))
    env.reset(seed=0)
    states = recorded_states()
    assert len(states) == 200
    images = []
    for state in states:
        env.unwrapped.state = state
        ours = env.observation(None)
        assert (ours.shape, ours.dtype) == ((40, 90, 3), np.uint8)
        assert env.observation_space.contains(ours)
        theirs = get_screen(env)
        difference = torch.from_numpy(np.moveaxis(ours, -1, 0) / 255) - theirs
        assert difference.abs().max() <= 1 / 255
        images.append(ours)
    assert len({image.tobytes() for image in images}) > 100  # states differ in their images


def test_the_image_is_channel_first_in_a_vector_environment() -> None:
    factory = EnvFactory("CartPole-v1", {"render_mode": "rgb_array"}, [CartPoleScreen])
    for num_envs in (1, 2):
        envs = factory.make_vector(num_envs)
        obs, _ = envs.reset(seed=0)
        assert (obs.shape, obs.dtype) == ((num_envs, 3, 40, 90), np.uint8)
        envs.close()


def test_the_image_can_have_another_height() -> None:
    env = CartPoleScreen(gym.make("CartPole-v1", render_mode="rgb_array"), height=80)
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.observation_space.shape == (80, 180, 3)


def test_the_screen_needs_cartpole_with_rendered_frames() -> None:
    with pytest.raises(ConfigError, match=r"data\.env\.kwargs\.render_mode rgb_array"):
        CartPoleScreen(gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match=r"data\.env\.wrappers: CartPoleScreen.*Acrobot"):
        CartPoleScreen(gym.make("Acrobot-v1", render_mode="rgb_array"))
    with pytest.raises(ConfigError, match=r"data\.env\.wrappers: height.*0"):
        CartPoleScreen(gym.make("CartPole-v1", render_mode="rgb_array"), height=0)


def test_the_shaped_reward_depends_on_the_next_state() -> None:
    env = CartPoleShapedReward(gym.make("CartPole-v1"))
    env.reset(seed=0)
    for action in (0, 1, 1, 1, 0):
        obs, reward, *_ = env.step(action)
        x, theta = abs(float(obs[0])), abs(float(obs[2]))
        threshold = 12 * 2 * np.pi / 360
        assert reward == pytest.approx(
            (2.4 - x) / 2.4 - 0.8 + (threshold - theta) / threshold - 0.5
        )


def test_the_shaped_reward_needs_a_cartpole_and_its_state() -> None:
    with pytest.raises(ConfigError, match=r"data\.env\.wrappers: CartPoleShapedReward.*Acrobot"):
        CartPoleShapedReward(gym.make("Acrobot-v1"))
    images = CartPoleScreen(gym.make("CartPole-v1", render_mode="rgb_array"))
    with pytest.raises(ConfigError, match=r"CartPoleShapedReward.*CartPoleScreen"):
        CartPoleShapedReward(images)
