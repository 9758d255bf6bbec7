"""Private attributes of other objects are used in `dqn_lightning/internals` only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import dqn_lightning

PACKAGE = Path(dqn_lightning.__file__).parent
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}
"""Public names with an underscore, of named tuples and of `os`."""

OPERATIONS = {"_foreach_add_", "_to_copy"}
"""Names of ATen operations, which a recording contains."""


def private_attributes(source: str) -> Iterator[str]:
    """Yield `object._name` for every access to a private attribute of an object but `self`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
            continue
        if node.attr.startswith("__") or node.attr in DOCUMENTED | OPERATIONS:
            continue
        owner = ast.unparse(node.value)
        if owner not in ("self", "cls", "super()"):
            yield f"{owner}.{node.attr}"


def test_private_attributes_of_other_objects_are_found() -> None:
    source = "self._a; cls._b; trainer._c; point._replace(x=1); module.__dict__; super()._d()"
    assert list(private_attributes(source)) == ["trainer._c"]


def test_private_attributes_of_other_objects_are_used_in_internals_only() -> None:
    found = {
        str(path.relative_to(PACKAGE)): names
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name != "internals" and (names := list(private_attributes(path.read_text())))
    }
    assert found == {}
