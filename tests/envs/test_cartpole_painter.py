"""The painter's images equal the window cropped from the rendered screen."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from PIL import Image

from dqn_lightning.envs import CartPoleScreen, EnvFactory, SingleVectorEnv
from dqn_lightning.envs.cartpole import crop_around_cart

DRAWS = {"render_mode": "rgb_array"}
GREY = partial(CartPoleScreen, grayscale=True)


def crop_and_resize(env: Any, height: int = 40) -> Any:
    """Render the whole screen, crop the window and downsample it."""
    cartpole = env.unwrapped
    screen = Image.fromarray(env.render())
    window = crop_around_cart(screen, cartpole.state[0], 2 * cartpole.x_threshold)
    return np.asarray(window.resize((height * 360 // 160, height), Image.Resampling.BICUBIC))


def random_states(number: int) -> list[Any]:
    """Return states within and beyond the limits of position and angle, and multiples of 90°."""
    rng = np.random.default_rng(0)
    states = []
    for i in range(number):
        near_an_edge = rng.choice([-1, 1]) * rng.normal(2.4, 0.3)
        position = near_an_edge if i % 2 else rng.uniform(-3.5, 3.5)
        angles = [rng.uniform(-0.3, 0.3), rng.uniform(-7, 7), rng.integers(-4, 5) * np.pi / 2]
        states.append(np.array([position, 0.0, angles[i % 3], 0.0]))
    return states


@pytest.mark.parametrize("number", [500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_every_pixel_equals_that_of_the_rendered_screen_in_any_state(number: int) -> None:
    env = CartPoleScreen(gym.make("CartPole-v1", **DRAWS))
    grayscale = GREY(gym.make("CartPole-v1", **DRAWS))
    reference = gym.make("CartPole-v1", **DRAWS)
    for each in (env, grayscale, reference):
        each.reset(seed=0)
    to_grayscale = wrappers.GrayscaleObservation(env, keep_dim=True).observation
    for state in random_states(number):
        for each in (env, grayscale, reference):
            each.unwrapped.state = state
        expected = crop_and_resize(reference)
        np.testing.assert_array_equal(env.observation(None), expected, str(state))
        np.testing.assert_array_equal(
            grayscale.observation(None), to_grayscale(expected), str(state)
        )


@pytest.mark.parametrize("height", [8, 16, 20, 50, 80, 160])
def test_pixels_are_equal_at_other_heights(height: int) -> None:
    env = CartPoleScreen(gym.make("CartPole-v1", **DRAWS), height=height)
    env.reset(seed=0)
    for state in random_states(30):
        env.unwrapped.state = state
        np.testing.assert_array_equal(
            env.observation(None), crop_and_resize(env, height), str(state)
        )


def test_pixels_are_equal_in_episodes_that_end_at_each_edge_of_the_track() -> None:
    for direction in (-1, 1):
        env = CartPoleScreen(gym.make("CartPole-v1", **DRAWS))
        env.reset(seed=0)
        ended, seen = False, []
        while not ended:
            _, speed, angle, turning = env.unwrapped.state  # leans, and so drifts to the edge
            action = angle + 0.3 * turning - 0.05 * direction * (abs(speed) < 1) > 0
            obs, _, ended, _, _ = env.step(int(action))
            np.testing.assert_array_equal(obs, crop_and_resize(env))
            seen.append(env.unwrapped.state[0])
        assert direction * seen[-1] > 2.4


def test_the_painter_does_not_render_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(_: Any) -> None:
        raise AssertionError("rendered")

    env = CartPoleScreen(gym.make("CartPole-v1", **DRAWS))
    monkeypatch.setattr(CartPoleEnv, "render", render)
    env.reset(seed=0)
    env.step(0)


def test_writing_to_an_observation_does_not_change_later_ones() -> None:
    env = CartPoleScreen(gym.make("CartPole-v1", **DRAWS))
    first, _ = env.reset(seed=0)
    kept = first.copy()
    first[:] = 7
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again, kept)


class Green(CartPoleEnv):
    """A CartPole with other colors."""

    def render(self) -> Any:
        image = np.array(super().render())
        image[:, :, 0] //= 2
        return image


class Dimmed(gym.Wrapper):
    """A wrapper that changes the rendered frame."""

    def render(self) -> Any:
        return np.asarray(self.env.render()) // 2


class GrowingPole(gym.Wrapper):
    """A wrapper that makes the pole longer in each episode."""

    def reset(self, **kwargs: Any) -> Any:
        self.unwrapped.length *= 1.2
        return self.env.reset(**kwargs)


def wide() -> gym.Env[Any, Any]:
    env = CartPoleEnv(**DRAWS)
    env.screen_width = 900
    return env


@pytest.mark.parametrize(
    "make",
    [
        partial(Green, **DRAWS),
        lambda: Dimmed(gym.make("CartPole-v1", **DRAWS)),
        lambda: GrowingPole(gym.make("CartPole-v1", **DRAWS)),
    ],
)
def test_modified_environments_are_rendered(make: Any) -> None:
    env = CartPoleScreen(make())
    usual = CartPoleScreen(gym.make("CartPole-v1", **DRAWS))
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(obs, crop_and_resize(env))
    assert (obs != usual.reset(seed=0)[0]).any()


def test_a_screen_of_another_size_is_rendered() -> None:
    obs, _ = CartPoleScreen(wide()).reset(seed=0)
    assert obs.shape == (40, 135, 3)  # 900 x 0.6 pixels at a quarter
    grayscale, _ = GREY(wide()).reset(seed=0)
    assert grayscale.shape == (40, 135, 1)
    assert grayscale.min() == 0  # the cart


def test_a_vector_environment_equals_separate_environments() -> None:
    factory = EnvFactory("CartPole-v1", DRAWS, [GREY])
    vector = factory.make_vector(8)
    singles = [factory.make_vector(1) for _ in range(8)]
    obs, _ = vector.reset(seed=5)
    assert (obs.shape, obs.dtype) == ((8, 1, 40, 90), np.uint8)
    each = np.concatenate([single.reset(seed=5 + i)[0] for i, single in enumerate(singles)])
    np.testing.assert_array_equal(obs, each)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(100):
        actions = rng.integers(2, size=8)
        steps = [single.step(actions[i : i + 1])[:4] for i, single in enumerate(singles)]
        together = vector.step(actions)[:4]
        for ours, alone in zip(together, zip(*steps, strict=True), strict=True):
            np.testing.assert_array_equal(ours, np.concatenate(alone))
        ends += np.count_nonzero(together[2])
    assert ends > 16
    assert vector.render()[3].shape == (400, 600, 3)


def test_rewards_and_ends_of_episodes_are_those_of_cartpole() -> None:
    seen = SingleVectorEnv(GREY(gym.make("CartPole-v1", **DRAWS)))
    plain = SingleVectorEnv(gym.make("CartPole-v1"))
    for envs in (seen, plain):
        envs.reset(seed=3)
    for i in range(600):
        # Balances the pole until the limit of 500 steps.
        x, speed, angle, turning = plain.env.unwrapped.state
        action = np.array([int(0.05 * x + 0.1 * speed + angle + 0.3 * turning > 0)])
        steps = [[float(value[0]) for value in envs.step(action)[1:4]] for envs in (seen, plain)]
        assert steps[0] == steps[1]
        assert steps[1][2] == (i == 499)
