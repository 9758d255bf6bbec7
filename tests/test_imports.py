"""A file imports only from lines of the ladder below its own (README, "The map")."""

import ast
from pathlib import Path

LADDER = [
    ["cli"],
    ["commands"],
    ["arguments"],
    ["callbacks"],
    ["datamodule", "module"],
    ["dataset", "evaluation", "health", "playing", "visits"],
    ["collector", "engines", "exporting", "plots", "csv_log"],
    ["actor", "losses.objectives"],
    ["losses.distributional"],
    ["envs", "networks", "losses.functional", "replay"],
    ["files", "outputs", "plain"],
    ["types", "schedules", "errors", "ranks"],
]
PACKAGE = Path(__file__).parents[1] / "dqn_lightning"


def line_of(module: str) -> int:
    for i, line in enumerate(LADDER):
        if any(module == part or module.startswith(f"{part}.") for part in line):
            return i
    if module == "losses":  # its names are those of the objectives
        return line_of("losses.objectives")
    raise AssertionError(f"{module} has no place on the ladder")


def imports_of(path: Path) -> list[str]:
    imported = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dqn_lightning":
            names = [name.name for name in node.names]
            assert all((PACKAGE / f"{name}.py").is_file() for name in names), path
            imported += names
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dqn_lightning."):
            module = str(node.module).removeprefix("dqn_lightning.")
            files = [f"{module}/{name.name}" for name in node.names]
            if all((PACKAGE / f"{file}.py").is_file() for file in files):
                imported += [file.replace("/", ".") for file in files]
            else:
                imported.append(module)
        elif isinstance(node, ast.Import):
            names = [n.name for n in node.names if n.name.startswith("dqn_lightning.")]
            imported += [name.removeprefix("dqn_lightning.") for name in names]
    return imported


def test_a_file_imports_only_from_below_its_own_line() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name in ("__init__", "losses"):
            continue
        family = name.split(".")[0]
        for module in imports_of(path):
            same_family = module.split(".")[0] == family and family != "losses"
            below = line_of(module) > line_of(name)
            assert same_family or below, f"{name} imports {module}"


def test_the_ladder_names_what_exists() -> None:
    for line in LADDER:
        for part in line:
            path = PACKAGE / part.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), part
