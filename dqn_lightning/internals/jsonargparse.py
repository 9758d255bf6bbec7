"""Checks of the names that jsonargparse imports for flags and configs.

jsonargparse imports every name that is given where a class or function is expected, and calls
functions and classes given as `class_path`. It has no public hook that could refuse a name in one
config and accept it in another, so these checks replace two private functions of its module
`_typehints` while arguments are parsed.

Checked against jsonargparse 4.41.0 and 4.53.0. If one of these functions is removed,
`tests/internals/test_jsonargparse.py` fails.
"""

import collections.abc
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from jsonargparse import Namespace, _actions, _typehints, _util

from dqn_lightning.errors import ConfigError

_REFUSAL = re.compile(r"'[^'\n]*' is refused: [^\n]*?(?=\. Got value:|\n|$)")
_UNIONS = (typing.Union, types.UnionType)


class RefusedNameError(ConfigError, ImportError):
    """A name in a flag or config was refused.

    jsonargparse handles an `ImportError` as an invalid value, and adds the flag to its message.
    """


def _refusal(name: str, reason: str) -> RefusedNameError:
    return RefusedNameError(f"'{name}' is refused: {reason}")


def refusal_in(message: str) -> str | None:
    """Return the message of a `RefusedNameError` that is part of a longer message, or None."""
    found = _REFUSAL.search(message)
    return None if found is None else found[0]


@contextmanager
def refuse_imports(is_allowed: Callable[[str], bool], reason: str) -> Iterator[None]:
    """Let jsonargparse import only allowed names within a `with` block.

    Args:
        is_allowed: Function that returns whether a dotted name may be imported.
        reason: Why any other name is refused, for the error message.
    """
    original = _util.import_object
    aliases = set[str]()  # other names of imported objects, to which jsonargparse normalizes

    def import_object(name: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(name, str) and "." in name and name not in aliases and not is_allowed(name):
            raise _refusal(name, reason)
        imported = original(name, *args, **kwargs)
        with suppress(ImportError, AttributeError, ValueError):  # it may have no other name
            aliases.add(str(_util.get_import_path(imported)))
        return imported

    users: tuple[Any, ...] = (_typehints, _actions)
    for module in users:
        module.import_object = import_object
    try:
        yield
    finally:
        for module in users:
            module.import_object = original


@contextmanager
def refuse_untyped_factories() -> Iterator[None]:
    """Refuse functions that are given where a factory is expected, but are not known to be one.

    Within a `with` block, a function given where a factory of a class is expected must have the
    class as its return annotation. jsonargparse alone would call any function that is given as
    `class_path`, such as `pydoc.pipepager`.
    """
    module: Any = _typehints
    original = module.adapt_typehints

    def adapt_typehints(value: Any, typehint: Any, *args: Any, **kwargs: Any) -> Any:
        expected = _factory_classes(typehint)
        name = _name_in(value)
        if expected and name is not None:
            _check_factory(name, expected)
        return original(value, typehint, *args, **kwargs)

    module.adapt_typehints = adapt_typehints
    try:
        yield
    finally:
        module.adapt_typehints = original


def _factory_classes(typehint: Any) -> tuple[type, ...]:
    """Return the class X of a type `Callable[…, X]`, or the classes of a union; else nothing."""
    if typing.get_origin(typehint) is not collections.abc.Callable:
        return ()
    returned = typing.get_args(typehint)[-1]
    options = typing.get_args(returned) if typing.get_origin(returned) in _UNIONS else (returned,)
    classes = (typing.get_origin(option) or option for option in options)
    return tuple(c for c in classes if isinstance(c, type) and c is not type(None))


def _name_in(value: Any) -> str | None:
    """Return the dotted name that a string, or a mapping with a `class_path`, refers to."""
    name = value.get("class_path") if isinstance(value, (Mapping, Namespace)) else value
    is_dotted = isinstance(name, str) and "." in name and name.replace(".", "_").isidentifier()
    return name if is_dotted else None


def _check_factory(name: str, expected: tuple[type, ...]) -> None:
    typehints: Any = _typehints  # a module whose imports `refuse_imports` replaces
    try:
        factory = typehints.import_object(name)
    except (ImportError, AttributeError):
        return  # jsonargparse reports it
    if isinstance(factory, type):
        return  # jsonargparse checks classes
    returned = _return_annotation(factory)
    returned = typing.get_origin(returned) or returned
    makes_factory = returned is collections.abc.Callable  # given as `class_path` with `init_args`
    if not makes_factory and not (isinstance(returned, type) and issubclass(returned, expected)):
        names = " or ".join(c.__name__ for c in expected)
        raise _refusal(name, f"a function must have the return annotation {names} to be used here")


def _return_annotation(function: Any) -> Any:
    try:
        return typing.get_type_hints(function).get("return")
    except Exception:  # an annotation of another parameter may not be resolvable at run time
        return getattr(function, "__annotations__", {}).get("return")
