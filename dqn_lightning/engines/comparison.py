"""Helpers that compare two executions of an update, and save and restore tensors."""

from collections.abc import Iterable
from math import inf

import torch
from torch import Tensor

_FLOAT32, _TF32 = 1e-4, 1e-2
_SMALLEST_SCALE = 1e-2
"""Smallest divisor in `relative_difference`, for tensors whose values are all close to 0."""


def snapshot(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return each tensor, paired with a copy of it."""
    return [(tensor, tensor.clone()) for tensor in tensors]


def restore(saved: list[tuple[Tensor, Tensor]]) -> None:
    """Copy the values saved by `snapshot` back to the tensors."""
    for tensor, value in saved:
        tensor.copy_(value)


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, divided by the largest magnitude in `expected`.

    The divisor is at least 0.01. The result is 0 only if all elements are equal; two NaNs count as
    equal.

    Args:
        actual: Tensor to compare.
        expected: Reference tensor of the same shape.

    >>> relative_difference(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 5.0]))
    0.2
    """
    if torch.equal(actual, expected):
        return 0.0
    actual, expected = actual.double(), expected.double()
    is_equal = (actual == expected) | (actual.isnan() & expected.isnan())
    difference = (actual - expected).abs().nan_to_num(nan=inf, posinf=inf)
    scale = expected.abs().nan_to_num(posinf=0.0).max().clamp(min=_SMALLEST_SCALE)
    return float(difference.masked_fill(is_equal, 0.0).max() / scale)


def tolerance(device: torch.device, has_convolutions: bool = False) -> float:
    """Return the relative difference allowed between two executions of the same operations.

    The tolerance is 0 on the CPU, where both executions compute in the same order. On a GPU, it
    depends on the precision in use: float32, TF32, or the dtype of autocast.

    Args:
        device: Device that the parameters are on.
        has_convolutions: Whether the network contains convolutions, which use TF32 by default.
    """
    if device.type == "cpu":
        return 0.0
    if torch.is_autocast_enabled(device.type):
        return max(_FLOAT32, 4 * torch.finfo(torch.get_autocast_dtype(device.type)).eps)
    if torch.get_float32_matmul_precision() != "highest":
        return _TF32
    return _TF32 if has_convolutions and _convolutions_use_tf32() else _FLOAT32


def _convolutions_use_tf32() -> bool:
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # the user chose precisions by the newer `fp32_precision` settings
        return True
