"""Values survive the conversion to plain values and back, bit for bit."""

import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqn_lightning.checkpointing import files
from dqn_lightning.checkpointing.serialization import NotSerializableError, from_plain, to_plain

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


def through_file(value: Any, directory: Path) -> Any:
    files.save(to_plain(value), directory / "a.pt")
    return from_plain(files.load(directory / "a.pt", "source"))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_equal_after_saving_and_loading(value: Any, tmp_path: Path) -> None:
    loaded = through_file(value, tmp_path)
    assert type(loaded) is type(value)
    assert loaded == value


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "uint32", "int16", "bool"])
def test_arrays_keep_their_dtype_and_are_writable_copies(dtype: str, tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)[:, ::2]
    loaded = through_file(array, tmp_path)
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)
    loaded[0, 0] = 1
    assert array[0, 0] == 0


def test_tensors_are_copied() -> None:
    tensor = torch.ones(2)
    plain = to_plain(tensor)
    restored = from_plain(plain)
    tensor.zero_()
    plain.fill_(5)
    assert restored.tolist() == [1, 1]


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_generators_continue_their_sequence(bits: Any, tmp_path: Path) -> None:
    generator = np.random.Generator(bits(3))
    generator.normal(size=5)
    loaded = through_file(generator, tmp_path)
    assert loaded.normal(size=5).tolist() == generator.normal(size=5).tolist()


def test_the_global_numpy_generator_continues_its_sequence() -> None:
    state = to_plain(np.random.get_state())
    first = np.random.rand(3).tolist()
    np.random.set_state(from_plain(state))
    assert np.random.rand(3).tolist() == first


@pytest.mark.parametrize("value", [object(), np.array(["a"]), np.array([None]), {1, 2}, len])
def test_other_types_are_rejected_at_any_depth(value: Any) -> None:
    with pytest.raises(NotSerializableError, match=type(value).__name__):
        to_plain({"a": [value]})


@pytest.mark.parametrize("name", ["test", "seed", "random.test"])
def test_a_file_does_not_choose_which_function_is_called(name: str) -> None:
    saved = to_plain(np.random.default_rng(1))
    with pytest.raises(KeyError, match=name):
        from_plain({**saved, "name": name})


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_every_kind_of_generator_is_restored(kind: str) -> None:
    generator = np.random.Generator(getattr(np.random, kind)(1))
    restored = from_plain(to_plain(generator))
    assert restored.random(3).tolist() == generator.random(3).tolist()
