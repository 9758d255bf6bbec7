"""Declare that a function is pure; engines record only functions declared to be pure."""

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def declare_pure(function: _Function) -> _Function:
    """Declare that a function depends only on its arguments, so that engines may record it.

    A recording repeats only the tensor operations of a call. Any other value that the function
    reads, such as an attribute that changes during training, stays as it was when the call was
    recorded. A class declares purity with an attribute: `is_pure: ClassVar[bool] = True`.
    """
    function.is_pure = True  # type: ignore[attr-defined]  # functions accept any attribute
    return function


def is_declared_pure(function: Any) -> bool:
    """Return whether a function or callable object is declared to be pure.

    A subclass that defines its own `__call__` or `forward` does not inherit the declaration.
    """
    if isinstance(function, partial):
        return is_declared_pure(function.func)
    if isinstance(function, FunctionType | MethodType):
        return bool(getattr(function, "is_pure", False))
    for kind in type(function).__mro__:
        if "is_pure" in vars(kind):
            return bool(vars(kind)["is_pure"])
        if {"__call__", "forward"} & vars(kind).keys():
            return False
    return False
