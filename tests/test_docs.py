"""Every command, example, path, setting and link in README.md and docs/ works."""

import ast
import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dqn_lightning.cli.main import main
from dqn_lightning.cli.registry import COMMANDS

pytestmark = pytest.mark.processes  # runs whole commands

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
README, PYTHON, GUIDE = (
    PAGES[name] for name in ("README.md", "docs/python.md", "docs/tutorials.md")
)

PARSED_ONLY = {
    "--trainer.devices": "starts several processes, or needs GPUs",
    "--trainer.accelerator gpu": "needs a GPU",
    "play --ckpt_path checkpoints/cartpole/best.ckpt": "opens a window",
    "play --ckpt_path checkpoints/pretrained/cartpole/best.ckpt": "opens a window",
}
"""Commands that are only parsed: a part of the command, or the whole command, and the reason."""

SHORT: dict[str, list[str]] = {
    "fit": [
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--episode_log.live=false",
        "--diagnostics.num_states=16",
        "--data.schedule.total_env_steps=160",
        "--data.schedule.learning_starts_env_steps=130",
        "--data.schedule.train_every_env_steps=16",
        "--data.schedule.updates_per_train=1",
        "--data.evaluation.every_env_steps=null",
    ],
    "validate": ["--data.evaluation.episodes=2"],
    "test": ["--data.evaluation.test_episodes=2"],
    "play": ["--episodes=1"],
    "embed": ["--points=50", "--episodes=1"],
}
"""Flags that make a command finish quickly."""

WAYS_OUT = ("--help", "--print_config")
"""Flags after which a command prints something and exits."""


# Commands -----------------------------------------------------------------------------------------


def lines_of_bash(page: str) -> Iterator[str]:
    """Yield each command line of a page's bash blocks, without comments and line breaks."""
    for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            code = re.sub(r"(^|\s)#.*$", "", line)
            yield " ".join(code.split())


def train_commands() -> list[str]:
    """Return the arguments of each `train.py` command in the documentation, once."""
    found: dict[str, None] = {}
    for page in PAGES.values():
        for line in lines_of_bash(page):
            if match := re.search(r"(?:^|\s)train\.py (.+)$", line):
                found[match[1]] = None
    return list(found)


def is_parsed_only(command: str) -> bool:
    return any(part == command or (part[0] == "-" and part in command) for part in PARSED_ONLY)


EXECUTED = [command for command in train_commands() if not is_parsed_only(command)]
PARSED = [command for command in train_commands() if is_parsed_only(command)]


def arguments_of(command: str) -> list[str]:
    """Split a command as a shell would, with file patterns."""
    arguments = []
    for word in shlex.split(command):
        paths = sorted(map(str, Path().glob(word))) if "*" in word else []
        arguments += paths or [word]
    return arguments


def run(arguments: list[str]) -> int:
    """Run a command as `train.py` does."""
    configs = ROOT / "configs"
    defaults = {
        name: configs / f"{command.default_config}.yaml"
        for name, command in COMMANDS.items()
        if command.default_config is not None
    }
    return main(arguments, default_configs=defaults)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the configs, short runs and files that the documentation names."""
    directory = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "configs", directory / "configs")
    shutil.copy(ROOT / "configs" / "cartpole.yaml", directory / "configs" / "my_config.yaml")
    shutil.copytree(ROOT / "checkpoints" / "pretrained", directory / "checkpoints" / "pretrained")
    np.save(directory / "obs.npy", np.zeros((3, 4), np.float32))
    (directory / "my_module.py").write_text(python_blocks(PYTHON)[1])
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        short = [*SHORT["fit"], "--data.evaluation.episodes=2"]
        short.append("--data.evaluation.every_env_steps=150")
        for name in ("cartpole", "morvan_tutorial"):
            assert main(["fit", "--config", f"configs/{name}.yaml", *short]) == 0
    runs = directory / "checkpoints"
    for name in ("three_steps", "my_run", "cartpole-seed-1", "cartpole-seed-2"):
        shutil.copytree(runs / "cartpole", runs / name)
    return directory


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared directory, which is the current directory."""
    directory = tmp_path / "workspace"
    shutil.copytree(prepared, directory)
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    return directory


def skip_without_packages(arguments: list[str]) -> None:
    """Skip a command whose extra is not installed."""
    needed = []
    if arguments[0] == "embed":
        needed = ["plotly"]
    elif arguments[0] == "export" and "--format" not in arguments:
        needed = ["onnx", "onnxscript", "onnxruntime"]
    for package in needed:
        pytest.importorskip(package)


@pytest.mark.parametrize("command", EXECUTED)
def test_a_command_runs(command: str, workspace: Path) -> None:
    arguments = arguments_of(command)
    skip_without_packages(arguments)
    short = list(SHORT.get(arguments[0], []))
    if "--ckpt_path" in arguments and arguments[0] == "fit":  # beyond the end of the prepared run
        short.append("--data.schedule.total_env_steps=320")
    if "cartpole_pixels_difference" in command:  # returns of 80 steps of 8 environments
        short.append("--data.schedule.total_env_steps=660")
    if "--trainer.callbacks.every_n_env_steps" in arguments:
        short += ["--trainer.callbacks.every_n_env_steps=140"]
        short += ["--data.evaluation.every_env_steps=150", "--data.evaluation.episodes=1"]
    if any(flag in arguments for flag in WAYS_OUT):
        with pytest.raises(SystemExit) as exit_info:
            run(arguments)
        assert exit_info.value.code in (0, None)
    else:
        assert run([*arguments, *short]) == 0
    for file in re.findall(r"--out (\S+)", command):
        assert (workspace / file).stat().st_size > 0


@pytest.mark.parametrize("command", PARSED)
def test_a_command_that_cannot_run_here_is_parsed(
    command: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run([*arguments_of(command), "--print_config"])
    assert exit_info.value.code in (0, None)
    settings = yaml.safe_load(capsys.readouterr().out)
    for flag, value in re.findall(r"--trainer\.(\w+) (\S+)", command):
        assert str(settings["trainer"][flag]) == value


def test_every_entry_of_the_parsed_only_commands_is_in_the_documentation() -> None:
    for part in PARSED_ONLY:
        assert any(part in command for command in PARSED), part


def test_every_command_of_the_command_line_is_documented() -> None:
    shown = {command.split()[0] for command in train_commands()}
    assert shown == set(COMMANDS)


def test_benchmarks_that_are_named_exist() -> None:
    named = {
        name
        for page in [*PAGES.values(), (ROOT / "benchmarks" / "README.md").read_text()]
        for name in re.findall(r"python -m (benchmarks\.\w+)", page)
    }
    assert len(named) > 5
    for name in named:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name


# Python examples ----------------------------------------------------------------------------------


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def test_the_readme_trains_loads_and_acts(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = python_blocks(README)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(block.replace("total_env_steps=20_000", "total_env_steps=5_000"), names)
    assert names["action"] in (0, 1)
    assert Path("my_run/best.ckpt").is_file()


def test_the_readmes_example_is_ten_statements_besides_imports() -> None:
    (block,) = python_blocks(README)
    statements = ast.parse(block).body
    assert sum(not isinstance(node, (ast.Import, ast.ImportFrom)) for node in statements) <= 10


def test_settings_in_groups_can_be_given_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    exec(python_blocks(PYTHON)[0], {"__name__": "__main__"})
    assert "(4,) 2" in capsys.readouterr().out


def test_an_environment_and_a_network_of_ones_own_train(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(python_blocks(PYTHON)[1].replace("3_000", "1_500"), names)
    assert names["trainer"].global_step > 0
    assert "test/return_mean" in names["trainer"].callback_metrics


def example_in_python(marker: str) -> str:
    """Return the example of docs/python.md that contains a string."""
    (block,) = [block for block in python_blocks(PYTHON) if marker in block]
    return block


TRAIN = """
from lightning.pytorch import Trainer
from dqn_lightning import EvaluationSettings, ScheduleSettings
from dqn_lightning.callbacks import TargetSync

data = DQNDataModule(
    "CartPole-v1",
    schedule=ScheduleSettings(total_env_steps=60, learning_starts_env_steps=50),
    evaluation=EvaluationSettings(every_env_steps=60, episodes=2),
)
trainer = Trainer(
    max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, callbacks=[TargetSync(every_n_grad_steps=5)],
)
trainer.fit(agent, datamodule=data)
"""
"""A short run of the module `agent` of an example."""


def test_an_objective_of_ones_own_trains() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(example_in_python("is_pure") + TRAIN, names)
    assert names["trainer"].global_step > 5


def test_a_metric_of_ones_own_is_logged() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(example_in_python("SuccessRate") + TRAIN, names)
    assert names["trainer"].callback_metrics["eval/success_rate"] == 0


def test_the_exported_network_plays_without_pytorch(workspace: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    (command,) = re.findall(r"^python train\.py (export .* --out cartpole\.onnx)$", PYTHON, re.M)
    assert run(command.split()) == 0
    block = python_blocks(PYTHON)[-1].replace("done = False", "done, steps = False, 0", 1)
    block += "    steps += 1\n"
    block += "import sys\nassert steps == 500 and 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_python_example_is_run_by_a_test() -> None:
    counts = {name: len(python_blocks(page)) for name, page in PAGES.items()}
    examples = {name: count for name, count in counts.items() if count}
    assert examples.pop("docs/tutorials.md") > 5  # excerpts of files, tested below
    assert examples == {"README.md": 1, "docs/python.md": 5}


# Settings, paths and links ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """Every setting of `fit`, with its dotted name."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        run(["fit", "--print_config"])
    names = set()

    def collect(prefix: str, value: Any) -> None:
        names.add(prefix)
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(f"{prefix}.{key}" if prefix else key, inner)

    collect("", yaml.safe_load(output.getvalue()))
    return names


GROUPS = "data|model|target_sync|gradient_clamp|checkpoints|episode_log|diagnostics"


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_a_page_names_exist(page: str, settings: set[str]) -> None:
    for name in re.findall(rf"`(?:--)?((?:{GROUPS})\.[a-z_.]+[a-z_])\b", PAGES[page]):
        if (ROOT / "dqn_lightning" / name).exists():  # a file
            continue
        known = name.split(".init_args")[0]
        assert known in settings, name


NOT_IN_THE_REPOSITORY = ("state/", "my_", "videos/", "pretrained/", "diagnostics/", "configs/my_")
"""Paths of a run, of the reader, and prefixes of metrics."""


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_a_page_names_exist(page: str) -> None:
    for name in set(re.findall(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|yaml|md))?)`", PAGES[page])):
        if name.startswith(NOT_IN_THE_REPOSITORY):
            continue
        assert (ROOT / name).exists() or (ROOT / "dqn_lightning" / name).exists(), name
    for name in re.findall(r"`([\w-]+\.yaml)`", PAGES[page]):
        assert name == "config.yaml" or (ROOT / "configs" / name).is_file(), name


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    without_code = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, "benchmarks/README.md", "checkpoints/README.md", "CHANGELOG.md"]
)
def test_links_of_a_page_lead_to_files_and_headings(page: str) -> None:
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        link = re.sub(r"\s+", "", link)
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_the_readme_is_short_and_links_to_every_page() -> None:
    assert len(README.splitlines()) <= 180
    for name in PAGES:
        assert name == "README.md" or f"({name})" in README, name


def test_the_map_of_files_names_every_directory_of_the_package() -> None:
    page = PAGES["docs/architecture.md"]
    for path in (ROOT / "dqn_lightning").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"      {path.name}/ " in page, path.name


# The guide to the tutorials -----------------------------------------------------------------------


def excerpts() -> list[tuple[str, str]]:
    """Return each excerpt of code in the guide, with the file that was last named before it."""
    found = []
    for block in re.finditer(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL):
        named = re.findall(r"`([\w/.]+\.py)`", GUIDE[: block.start()])
        found.append((named[-1], block[1]))
    return found


@pytest.mark.parametrize(("name", "code"), excerpts(), ids=lambda text: text.splitlines()[0][:40])
def test_an_excerpt_of_the_guide_is_in_its_file(name: str, code: str) -> None:
    file = (ROOT / name).read_text()
    dedented = textwrap.dedent(code)
    levels = (textwrap.indent(dedented, " " * spaces).strip("\n") for spaces in range(0, 20, 2))
    assert any(level in file for level in levels), f"{name} has no\n{code}"
    assert len(code.splitlines()) <= 10


def test_functions_and_classes_that_the_guide_names_with_their_file_are_in_it() -> None:
    named = re.findall(r"`(\w+)`\s+in\s+`(dqn_lightning/[\w/]+\.py)`", GUIDE)
    assert len(named) > 5
    for name, file in named:
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), f"{name} in {file}"


def test_the_guide_follows_the_tutorials_order_with_their_chinese_headings() -> None:
    titles = re.findall(r"^##+ (.*)$", GUIDE, flags=re.MULTILINE)
    assert [title.split(" · ")[1] for title in titles] == [
        "任务",
        "需要的包",
        "复现记忆（Replay Memory）",  # noqa: RUF001  (as printed)
        "DQN 算法",
        "Q_网络（Q_network）",  # noqa: RUF001  (as printed)
        "输入提取",
        "训练",
        "超参数和实用程序",
        "训练循环",
        "模块导入和参数设置",
        "神经网络",
        "DQN体系",
        "画3D图",
    ]
