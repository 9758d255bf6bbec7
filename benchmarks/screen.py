"""Compare two ways to draw CartPole's patch: cut out of the rendered screen, or drawn alone.

    python -m benchmarks.screen

Both run in turn, in one process on one thread. The table shows medians in microseconds, and the
median, minimum and maximum of the ratios. A patch is timed alone, and within a full step of one
environment: physics, time limit, resets, grayscale patch and vector.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import GrayscaleObservation

from benchmarks.ratios import of_pairs
from dqn_lightning.envs import CartPoleScreen, EnvFactory

DRAWS = {"render_mode": "rgb_array"}
WARM_UP = 1_000
"""Untimed steps of a vector environment, after which most patches are cached."""

Part = Callable[[], float]
"""A function that runs once and returns the microseconds per patch or per step."""


class Rendered(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that changes nothing, but makes `CartPoleScreen` render the whole screen."""

    def render(self) -> Any:
        return self.env.render()


def slow_grayscale(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return GrayscaleObservation(CartPoleScreen(Rendered(env)), keep_dim=True)


fast_grayscale = partial(CartPoleScreen, grayscale=True)


def states_of_episodes(number: int) -> list[Any]:
    """Return states of a policy that often drifts; a third of them are near the edges."""
    env, rng = gym.make("CartPole-v1"), np.random.default_rng(0)
    env.reset(seed=0)
    states: list[Any] = []
    while len(states) < number:
        cartpole: Any = env.unwrapped
        states.append(cartpole.state)
        _, _, angle, turning = cartpole.state
        action = int(angle + 0.3 * turning + 0.2 * rng.normal() > 0)
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return states


def random_states(number: int) -> list[Any]:
    """Return states with random positions and angles, whose patches are rarely cached."""
    rng = np.random.default_rng(0)
    drawn = rng.uniform([-2.4, -np.pi], [2.4, np.pi], (number, 2))
    return [np.array([position, 0.0, angle, 0.0]) for position, angle in drawn]


def patches(wrap: Callable[[Any], Any], states: list[Any], number: int) -> Part:
    env: Any = wrap(gym.make("CartPole-v1", **DRAWS))
    env.reset(seed=0)
    coming = iter(states)

    def run() -> float:
        spent = 0.0
        for _ in range(number):
            env.unwrapped.state = next(coming)
            started = time.perf_counter()
            env.observation(None)
            spent += time.perf_counter() - started
        return 1e6 * spent / number

    return run


def steps(
    wrap: Callable[[Any], Any] | None, num_envs: int, number: int, warm_up: int = WARM_UP
) -> Part:
    factory = EnvFactory("CartPole-v1", DRAWS, [wrap] if wrap else [])
    envs = factory.make_vector(num_envs, "single" if num_envs == 1 else "sync")
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for action in rng.integers(2, size=(warm_up, num_envs)):
        envs.step(action)

    def run() -> float:
        actions = rng.integers(2, size=(number, num_envs))
        started = time.perf_counter()
        for action in actions:
            envs.step(action)
        return 1e6 * (time.perf_counter() - started) / number / num_envs

    return run


def compare(name: str, slow: Part, fast: Part, runs: int) -> None:
    pairs = [(slow(), fast()) for _ in range(runs)]
    slows, fasts = zip(*pairs, strict=True)
    medians = f"{statistics.median(slows):,.0f} | {statistics.median(fasts):,.0f}"
    print(f"| {name} | {medians} | {of_pairs(slows, fasts)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--number", type=int, default=200, help="patches or steps in a run")
    given = parser.parse_args()
    runs, number = given.runs, given.number
    print("| microseconds | rendered | drawn alone | ratio |\n|---|---|---|---|")
    for name, states in {
        "a patch of an episode": states_of_episodes(runs * number),
        "a patch that was never drawn before": random_states(runs * number),
    }.items():
        color = partial(patches, states=states, number=number)
        slow = color(lambda env: CartPoleScreen(Rendered(env)))
        compare(f"{name}, color", slow, color(CartPoleScreen), runs)
    for num_envs in (1, 8):
        name = f"a step of one environment, grayscale, {num_envs} in the vector"
        fast = steps(fast_grayscale, num_envs, number)
        slow = steps(slow_grayscale, num_envs, number // num_envs, warm_up=10)
        compare(name, slow, fast, runs)
    bare = steps(None, 8, number)
    alone = statistics.median(bare() for _ in range(runs))
    print(f"| the same without an image, 8 in the vector | | {alone:,.0f} | |")


if __name__ == "__main__":
    main()
