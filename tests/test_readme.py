"""What the README shows is run as it stands, only shorter."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["cartpole", "onnx", "own environment and network"])
def test_the_python_examples_run(block: str, tmp_path: Path) -> None:
    if "onnxruntime" in block:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
        (flags,) = re.findall(r"^python train.py (export .* --out cartpole.onnx)$", README, re.M)
        (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
        command = [sys.executable, str(ROOT / "train.py"), *flags.split()]
        subprocess.run(command, cwd=tmp_path, check=True)
        block += "    steps = steps + 1 if reward and 'steps' in dir() else 1\n"
        block += "import sys\nassert steps == 500 and 'torch' not in sys.modules\n"
    shorter = block.replace("total_env_steps=20_000", "total_env_steps=5_000")
    finished = subprocess.run(
        [sys.executable, "-c", shorter], cwd=tmp_path, capture_output=True, text=True, timeout=110
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_first_example_is_ten_statements_besides_imports() -> None:
    statements = ast.parse(BLOCKS[0]).body
    assert sum(not isinstance(node, (ast.Import, ast.ImportFrom)) for node in statements) <= 10


def test_commands_name_files_and_flags_that_exist() -> None:
    from dqn_lightning.cli import DQNCLI

    names = {*DQNCLI.subcommands(), "plot"}
    commands = re.findall(r"^python (\S+\.py)(.*?)(?:#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) > 5
    for script, arguments in commands:
        assert (ROOT / script).is_file()
        for config in re.findall(r"configs/[\w/]+\.yaml", arguments):
            assert (ROOT / config).is_file()
        assert not arguments.split() or arguments.split()[0] in names


def test_files_of_the_map_exist() -> None:
    table = README.split("### The map")[1].split("###")[0]
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", table):
        assert (ROOT / name).exists() or (ROOT / "dqn_lightning" / name).exists(), name
