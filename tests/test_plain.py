"""Plain values stand for others, to the bit."""

import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqn_lightning import files
from dqn_lightning.plain import NotPlainError, plain, restored

VALUES: list[Any] = [
    None,
    True,
    3,
    0.1,
    "text",
    b"bytes",
    [1, [2.5, None]],
    (1, ("a", (2,))),
    {"a": 1, 2: ("b", [3])},
    deque([1, 2, 3], maxlen=5),
    np.float32(0.1),
    np.int64(-5),
    np.bool_(True),
    random.getstate(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_through_a_file(value: Any, tmp_path: Path) -> None:
    files.save(plain(value), tmp_path, "a.pt")
    again = restored(files.load(tmp_path / "a.pt", "it"))
    assert type(again) is type(value)
    assert again == value


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "uint32", "int16", "bool"])
def test_arrays_come_back_with_their_dtype(dtype: str, tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)[:, ::2]
    files.save(plain(array), tmp_path, "a.pt")
    again = restored(files.load(tmp_path / "a.pt", "it"))
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    again[0, 0] = 1  # an array of its own
    assert torch.equal(restored(plain(torch.ones(2))), torch.ones(2))


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_generators_go_on(bits: Any, tmp_path: Path) -> None:
    generator = np.random.Generator(bits(3))
    generator.normal(size=5)
    files.save(plain(generator), tmp_path, "a.pt")
    again = restored(files.load(tmp_path / "a.pt", "it"))
    assert again.normal(size=5).tolist() == generator.normal(size=5).tolist()


def test_numpys_old_generator_goes_on() -> None:
    state = plain(np.random.get_state())
    first = np.random.rand(3).tolist()
    np.random.set_state(restored(state))
    assert np.random.rand(3).tolist() == first


@pytest.mark.parametrize("value", [object(), np.array(["a"]), np.array([None]), {1, 2}, len])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(NotPlainError):
        plain({"a": [value]})
