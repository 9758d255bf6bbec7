"""A file imports only from lines of the ladder below its own (docs/architecture.md)."""

import ast
from pathlib import Path

LADDER = [
    ["cli"],
    ["callbacks"],
    ["module", "datamodule", "analysis"],
    ["engines", "interaction"],
    ["losses", "plots", "envs", "replay"],
    ["networks", "checkpointing"],
    ["internals", "loggers"],
    ["types", "schedules", "distributed"],
    ["errors"],
]
PACKAGE = Path(__file__).parents[1] / "dqn_lightning"


def line_of(module: str) -> int:
    part = module.split(".")[0]
    for i, line in enumerate(LADDER):
        if part in line:
            return i
    raise AssertionError(f"{module} is on no line of the ladder")


def imports_of(path: Path) -> list[str]:
    """Modules of this package that a file imports, without the package's name."""
    imported = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dqn_lightning":
            imported += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dqn_lightning."):
            imported.append(str(node.module))
        elif isinstance(node, ast.Import):
            imported += [name.name for name in node.names if name.name.startswith("dqn_lightning.")]
    return [name.removeprefix("dqn_lightning.") for name in imported]


def test_a_file_imports_only_from_below_its_own_line() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name == "__init__":
            continue
        for module in imports_of(path):
            same_directory = module.split(".")[0] == name.split(".")[0]
            assert same_directory or line_of(module) > line_of(name), f"{name} imports {module}"


def test_the_ladder_names_every_file_and_directory_at_the_top_of_the_package() -> None:
    named = {part for line in LADDER for part in line}
    existing = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert named == existing - {"__init__", "__main__", "__pycache__", "py"}
