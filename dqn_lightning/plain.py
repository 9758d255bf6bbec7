"""State made of plain values and tensors, which a checkpoint can hold without any code.

Arrays, numbers of numpy, tuples, deques, dicts with any keys and random generators are turned into
dicts that name their kind; `restored` makes the same values of them again, to the bit.
"""

from collections import deque
from typing import Any

import numpy as np
import torch

_KIND = "__kind__"
_AS_IT_IS = (type(None), bool, int, float, str, bytes)


class NotPlainError(TypeError):
    """A value that no plain value stands for."""


def plain(value: Any) -> Any:
    """The value as tensors, lists, dicts with string keys and plain values only.

    Raises:
        NotPlainError: If it cannot be said in these.
    """
    if type(value) in _AS_IT_IS:
        return value
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return {_KIND: "array", "tensor": torch.from_numpy(np.array(value))}
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return {_KIND: "number", "tensor": torch.from_numpy(np.array(value))}
    if type(value) in (list, tuple):
        return {_KIND: type(value).__name__, "items": [plain(item) for item in value]}
    if isinstance(value, deque):
        items = [plain(item) for item in value]
        return {_KIND: "deque", "items": items, "maxlen": value.maxlen}
    if type(value) is dict:
        items = [[plain(key), plain(item)] for key, item in value.items()]
        return {_KIND: "dict", "items": items}
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return {_KIND: "generator", "name": type(bits).__name__, "state": plain(bits.state)}
    raise NotPlainError(type(value).__name__)


def restored(value: Any) -> Any:
    """The value that `plain` was given."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if not isinstance(value, dict):
        return value
    return _RESTORE[value[_KIND]](value)


def _generator(value: dict[str, Any]) -> np.random.Generator:
    bits = getattr(np.random, value["name"])()
    bits.state = restored(value["state"])
    return np.random.Generator(bits)


_RESTORE: dict[str, Any] = {
    "array": lambda value: value["tensor"].numpy().copy(),
    "number": lambda value: value["tensor"].numpy()[()],
    "list": lambda value: [restored(item) for item in value["items"]],
    "tuple": lambda value: tuple(restored(item) for item in value["items"]),
    "deque": lambda value: deque(map(restored, value["items"]), value["maxlen"]),
    "dict": lambda value: {restored(key): restored(item) for key, item in value["items"]},
    "generator": _generator,
}
