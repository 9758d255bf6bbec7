"""Values that do not match the environment's spaces are detected when they are returned."""

import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from numpy.typing import NDArray

from dqn_lightning.envs import EnvFactory, Vectorization
from dqn_lightning.envs.checks import CheckedVectorEnv, OutputCheck
from dqn_lightning.errors import InvalidEnvironmentError

VECTOR = spaces.Box(-np.inf, np.inf, (4,), np.float32)
MATRIX = spaces.Box(-np.inf, np.inf, (5, 5), np.float32)
IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
TINY_INTEGERS = spaces.Box(-128, 127, (2,), np.int8)
CLASSES = spaces.MultiDiscrete([3, 4], start=[1, 0])

FAULTS = [
    ("shape", r"an observation of shape \(1,\), but its space has shape \(2,\)"),
    ("text", r"an observation of dtype <U1, but its space has dtype float32"),
    ("nan obs", r"an observation that is not finite: \[ ?0\. nan\]"),
    ("infinite obs", r"an observation that is not finite: \[ ?inf -inf\]"),
    ("nan reward", r"the reward nan, which is not a finite number"),
    ("infinite reward", r"the reward .*-inf.*, which is not a finite number"),
    ("text reward", r"the reward '1.0', which is not a finite number"),
    ("text terminated", r"terminated='False', which is not a boolean"),
    ("number truncated", r"truncated=0, which is not a boolean"),
]


def make_faulty(fault: str, vectorization: Vectorization, at: int = 5) -> Any:
    num_envs = 1 if vectorization == "single" else 2
    factory = EnvFactory("toy/Faulty-v0", {"fault": fault, "at": at})
    return factory.make_vector(num_envs, vectorization)


def step(envs: Any, steps: int) -> None:
    for _ in range(steps):
        envs.step(np.zeros(envs.num_envs, np.int64))


@pytest.mark.parametrize("vectorization", ["single", "sync"])
@pytest.mark.parametrize(("fault", "words"), FAULTS)
def test_an_invalid_value_is_reported_in_the_step_that_returns_it(
    fault: str, words: str, vectorization: Vectorization
) -> None:
    envs = make_faulty(fault, vectorization)
    envs.reset(seed=[3, 4][: envs.num_envs])
    with pytest.raises(InvalidEnvironmentError, match=f"environment 0 returned {words}"):
        step(envs, 15)
    first = envs.env if vectorization == "single" else envs.envs[0]
    assert first.unwrapped.steps == 5


@pytest.mark.parametrize("vectorization", ["single", "sync", "async"])
def test_an_invalid_first_observation_is_reported_by_reset(vectorization: Vectorization) -> None:
    envs = make_faulty("nan obs", vectorization, at=0)
    with pytest.raises(InvalidEnvironmentError, match=r"environment 0 returned .*not finite"):
        envs.reset(seed=0)
    envs.close()


@pytest.mark.parametrize("vectorization", ["single", "sync"])
def test_an_environment_that_calls_sys_exit_is_reported(vectorization: Vectorization) -> None:
    envs = make_faulty("sys.exit", vectorization)
    envs.reset(seed=3)
    with pytest.raises(InvalidEnvironmentError, match=r"environment 0 called sys\.exit\(3\)"):
        step(envs, 15)


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (VECTOR, np.zeros(4, np.float32)),
        (VECTOR, np.zeros(4)),  # of dtype float64
        (VECTOR, np.zeros(4, np.int64)),
        (VECTOR, [0.0, 1.0, 2.0, 3.0]),
        (VECTOR, np.array([3e38, 3e38, 3e38, 3e38], np.float32)),
        (MATRIX, np.full((5, 5), 3e38, np.float32)),
        (MATRIX, np.zeros((5, 5), np.float32).T),
        (spaces.Box(-1, 1, (), np.float32), 0.5),
        (spaces.Box(-1, 1, (2,), np.float32), np.array([5, 5], np.float32)),  # exceeds the bounds
        (IMAGE, np.zeros((8, 8, 3), np.uint8)),
        (TINY_INTEGERS, np.array([-128, 127])),
        (spaces.Discrete(6), 5),
        (spaces.Discrete(6), np.int32(5)),
        (spaces.Discrete(6), np.array(5)),
        (spaces.Discrete(3, start=-1), -1),
        (CLASSES, np.array([3, 3])),
        (CLASSES, [1, 0]),
        (spaces.MultiBinary(2), np.array([True, False])),
    ],
)
def test_a_valid_observation_is_accepted(space: Any, obs: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OutputCheck(space, 0).obs(obs)


@pytest.mark.parametrize(
    ("space", "obs", "words"),
    [
        (VECTOR, np.zeros(1, np.float32), r"shape \(1,\), .* \(4,\)"),
        (VECTOR, np.zeros((1, 4), np.float32), r"shape \(1, 4\), .* \(4,\)"),
        (VECTOR, None, r"shape \(\)"),
        (VECTOR, [0.0, [1.0, 2.0]], "not an array"),
        (VECTOR, [0.0, 1.0, 2.0, None], "dtype object"),
        (VECTOR, np.array([1, np.inf, -np.inf, 0], np.float32), "not finite"),
        (VECTOR, np.array([1, np.nan, 0, 0]), "not finite"),
        (MATRIX, np.full((5, 5), np.nan, np.float32), "not finite"),
        (MATRIX, np.where(np.eye(5), np.inf, 0).astype(np.float32), "not finite"),
        (IMAGE, np.zeros((8, 8, 3), np.int64), "dtype int64, .* uint8"),
        (IMAGE, np.zeros((8, 8, 3), np.float32), "dtype float32, .* uint8"),
        (IMAGE, np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (TINY_INTEGERS, np.array([0, 128]), r"\[ 0 128\], which is not in its space"),
        (spaces.Discrete(6), 9, r"the observation 9, .* Discrete\(6\)"),
        (spaces.Discrete(6), -1, "observation -1"),
        (spaces.Discrete(6), 2.0, "dtype float64"),
        (spaces.Discrete(6), np.array([2]), r"shape \(1,\)"),
        (spaces.Discrete(3, start=-1), 2, "observation 2"),
        (CLASSES, np.array([0, 0]), r"\[0 0\]"),
        (CLASSES, np.array([1, 4]), r"\[1 4\]"),
        (spaces.MultiBinary(2), np.array([0, 2], np.int8), r"\[0 2\]"),
    ],
)
def test_an_invalid_observation_is_refused(space: Any, obs: Any, words: str) -> None:
    with pytest.raises(InvalidEnvironmentError, match=f"environment 7 returned .*{words}"):
        OutputCheck(space, 7).obs(obs)


@pytest.mark.parametrize(
    "reward", [1.0, 1, -1, True, np.float32(1), np.int64(1), np.array(1.0), np.array([1.0])]
)
def test_a_finite_number_is_accepted_as_reward(reward: Any) -> None:
    OutputCheck(VECTOR, 0).step(np.zeros(4, np.float32), reward, False, np.True_)


@pytest.mark.parametrize("reward", [np.nan, np.inf, np.float32("nan"), None, "1", 1j, [1.0, 2.0]])
def test_other_rewards_are_refused(reward: Any) -> None:
    with pytest.raises(InvalidEnvironmentError, match="environment 0 returned the reward"):
        OutputCheck(VECTOR, 0).step(np.zeros(4, np.float32), reward, False, False)


@pytest.mark.parametrize("flag", ["False", 0, 1, None, np.array([True, False])])
def test_flags_that_are_not_boolean_are_refused(flag: Any) -> None:
    check = OutputCheck(VECTOR, 0)
    with pytest.raises(InvalidEnvironmentError, match="returned terminated="):
        check.step(np.zeros(4, np.float32), 1.0, flag, False)
    with pytest.raises(InvalidEnvironmentError, match="returned truncated="):
        check.step(np.zeros(4, np.float32), 1.0, False, flag)


class FaultyVector(CartPoleVectorEnv):
    """Native vector environment that returns other arrays.

    Attributes:
        replaced: Arrays by their index in the values that `step` returns.
    """

    replaced: ClassVar[dict[int, Any]] = {}

    def reset(self, **kwargs: Any) -> Any:
        obs, infos = super().reset(**kwargs)
        return self.replaced.get(0, obs), infos

    def step(self, actions: NDArray[np.int64]) -> Any:
        return tuple(self.replaced.get(i, value) for i, value in enumerate(super().step(actions)))


@pytest.mark.parametrize(
    ("index", "value", "words"),
    [
        (0, np.array([[0] * 4, [0] * 4, [0, np.nan, 0, 0]], np.float32), "environment 2 .*finite"),
        (0, np.zeros((3, 1), np.float32), r"environment 0 .*shape \(1,\)"),
        (0, np.zeros((2, 4), np.float32), "the vector environment .* for 3 environments"),
        (0, np.zeros((3, 4), "U1"), "environment 0 .*dtype <U1"),
        (1, np.array([1, np.inf, 1]), "environment 1 .*reward .*inf"),
        (1, np.zeros((3, 1)), r"the vector environment .*shape \(3, 1\)"),
        (2, np.array([False, True, 2], object), "environment 2 .*terminated=2"),
        (3, np.zeros(3), r"environment 0 .*truncated=.*0\.0"),
    ],
)
def test_an_invalid_value_of_a_native_vector_is_reported_with_its_environment(
    index: int, value: Any, words: str
) -> None:
    vector: Any = FaultyVector(3)
    envs = CheckedVectorEnv(vector)
    envs.reset(seed=0)
    envs.step(np.zeros(3, np.int64))
    vector.replaced = {index: value}
    with pytest.raises(InvalidEnvironmentError, match=words):
        envs.step(np.zeros(3, np.int64))
    if index == 0:
        with pytest.raises(InvalidEnvironmentError, match=words):
            envs.reset(seed=0)


def test_other_valid_values_of_a_native_vector_are_accepted() -> None:
    vector: Any = FaultyVector(2)
    envs = CheckedVectorEnv(vector)
    vector.replaced = {0: np.zeros((2, 4)), 1: np.ones(2, np.int64), 2: [False, True]}
    envs.reset(seed=0)
    envs.step(np.zeros(2, np.int64))
