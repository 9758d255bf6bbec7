from math import inf, nan

import pytest
import torch

from dqn_lightning.engines.comparison import relative_difference, restore, snapshot, tolerance


@pytest.mark.parametrize(
    ("actual", "expected", "difference"),
    [
        ([1.0, nan, inf], [1.0, nan, inf], 0.0),
        ([1.0, 3.0], [1.0, 4.0], 0.25),
        ([1.0, nan], [1.0, 4.0], inf),
        ([1.0, 4.0], [1.0, nan], inf),
        ([0.0, 0.001], [0.0, 0.0], 0.1),  # relative to 0.01 at least
    ],
)
def test_differences_are_relative_to_the_largest_expected_value(
    actual: list[float], expected: list[float], difference: float
) -> None:
    found = relative_difference(torch.tensor(actual), torch.tensor(expected))
    assert found == pytest.approx(difference)


def test_a_snapshot_restores_the_contents() -> None:
    a, b = torch.ones(2), torch.zeros(3)
    saved = snapshot([a, b])
    a.fill_(5), b.fill_(5)
    restore(saved)
    assert a.tolist() == [1, 1]
    assert b.tolist() == [0, 0, 0]


def test_the_tolerance_depends_on_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert tolerance(torch.device("cpu")) == 0.0
    float32 = tolerance(cuda)
    assert 0 < float32 < 2**-10  # smaller than a rounding error of TF32
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert tolerance(cuda, has_convolutions=True) > 2**-10
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert tolerance(cuda, has_convolutions=True) == float32
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert tolerance(cuda) > 2**-10
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    assert tolerance(cuda) > 2**-7  # a rounding error of bfloat16
