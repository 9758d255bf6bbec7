"""Convert state to plain values and tensors, which `torch.load(weights_only=True)` accepts.

NumPy arrays, scalars and random generators, and tuples, lists, deques and dicts are converted to
dicts that contain the name of the original type. `from_plain` restores the original values exactly.
"""

from collections import deque
from io import BytesIO
from typing import Any

import numpy as np
import torch

_KIND = "__kind__"
_PLAIN_TYPES = (type(None), bool, int, float, str, bytes)
_BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (
        np.random.MT19937,
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.Philox,
        np.random.SFC64,
    )
}


class NotSerializableError(TypeError):
    """Error raised by `to_plain` for a value that contains an object of an unsupported type."""


def to_plain(value: Any) -> Any:
    """Convert a value to nested dicts and lists of tensors and plain values.

    Raises:
        NotSerializableError: If the value contains an object of an unsupported type.
    """
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return {_KIND: "array", "tensor": torch.from_numpy(np.array(value))}
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return {_KIND: "number", "tensor": torch.from_numpy(np.array(value))}
    if type(value) in (list, tuple):
        return {_KIND: type(value).__name__, "items": [to_plain(item) for item in value]}
    if isinstance(value, deque):
        items = [to_plain(item) for item in value]
        return {_KIND: "deque", "items": items, "maxlen": value.maxlen}
    if type(value) is dict:
        items = [[to_plain(key), to_plain(item)] for key, item in value.items()]
        return {_KIND: "dict", "items": items}
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        if type(bits).__name__ not in _BIT_GENERATORS:
            raise NotSerializableError(type(bits).__name__)
        return {_KIND: "generator", "name": type(bits).__name__, "state": to_plain(bits.state)}
    raise NotSerializableError(type(value).__name__)


def from_plain(value: Any) -> Any:
    """Restore a value that was converted by `to_plain`."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if not isinstance(value, dict):
        return value
    return _RESTORE[value[_KIND]](value)


def to_bytes(plain: Any) -> bytes:
    """Return the bytes of a converted value, to send it to another process.

    PyTorch would send tensors through shared memory and a socket in the directory for temporary
    files, which fails if the path of this directory is long.
    """
    buffer = BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()


def from_bytes(content: bytes) -> Any:
    """Restore a value that was converted by `to_bytes`."""
    return torch.load(BytesIO(content), weights_only=True)


def _generator(value: dict[str, Any]) -> np.random.Generator:
    bits = _BIT_GENERATORS[value["name"]]()  # a file must not choose what is called
    bits.state = from_plain(value["state"])
    return np.random.Generator(bits)


_RESTORE: dict[str, Any] = {
    "array": lambda value: value["tensor"].numpy().copy(),
    "number": lambda value: value["tensor"].numpy()[()],
    "list": lambda value: [from_plain(item) for item in value["items"]],
    "tuple": lambda value: tuple(from_plain(item) for item in value["items"]),
    "deque": lambda value: deque(map(from_plain, value["items"]), value["maxlen"]),
    "dict": lambda value: {from_plain(key): from_plain(item) for key, item in value["items"]},
    "generator": _generator,
}
