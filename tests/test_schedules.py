import pytest

from dqn_lightning import Constant, Exponential, Linear


def test_linear_reaches_its_end_and_stays_constant() -> None:
    line = Linear(1.0, 0.05, steps=100)
    assert [line(0), line(100), line(10**9)] == pytest.approx([1.0, 0.05, 0.05])
    assert line(50) == pytest.approx(0.525)


def test_exponential_equals_the_epsilon_of_the_pytorch_tutorial() -> None:
    epsilon = Exponential(0.9, 0.05, steps=200)
    assert [epsilon(n) for n in (0, 200, 1_000)] == pytest.approx(
        [0.9, 0.362698, 0.055727], abs=1e-6
    )


def test_schedules_without_steps_are_rejected() -> None:
    for make in (lambda: Linear(1, 0, 0), lambda: Exponential(1, 0, 0)):
        with pytest.raises(ValueError, match="steps"):
            make()
    assert Constant(3)(7) == 3
