"""The guide from the tutorials says what is so: its files exist, its lines are theirs, it runs."""

import re
import textwrap
from pathlib import Path

import pytest

from dqn_lightning.cli import main

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "from-the-tutorials.md").read_text()
COMMANDS = sorted(set(re.findall(r"^python train\.py (.*)$", GUIDE, flags=re.MULTILINE)))


def excerpts() -> list[tuple[str, str]]:
    """Each block of code, and the file that was named last before it."""
    found = []
    for block in re.finditer(r"```(?:python|yaml)\n(.*?)```", GUIDE, flags=re.DOTALL):
        named = re.findall(r"`([\w/.]+\.(?:py|yaml))`", GUIDE[: block.start()])
        if block[0].startswith("```yaml"):
            named = [name for name in named if name.endswith(".yaml")]
        found.append((named[-1], block[1]))
    return found


def test_every_file_that_is_named_exists() -> None:
    names = set(re.findall(r"`((?:[\w.-]+/)+(?:[\w-]+\.\w+)?)`", GUIDE))
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#]+)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link


def test_links_into_the_readme_lead_to_its_sections() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"README\.md#([\w-]+)", GUIDE)
    assert links
    assert set(links) <= anchors


@pytest.mark.parametrize(("name", "code"), excerpts(), ids=lambda text: text.splitlines()[0][:40])
def test_every_excerpt_stands_in_its_file(name: str, code: str) -> None:
    file = (ROOT / name).read_text()
    levels = (textwrap.indent(textwrap.dedent(code), " " * spaces) for spaces in range(0, 20, 2))
    assert any(level.strip("\n") in file for level in levels), f"{name} has no\n{code}"
    assert len(code.splitlines()) <= 10


def test_the_steps_stand_in_the_tutorials_order_with_their_chinese_names() -> None:
    titles = re.findall(r"^##+ (.*)$", GUIDE, flags=re.MULTILINE)
    assert [title.split(" · ")[1] for title in titles] == [
        "任务",
        "需要的包",
        "复现记忆（Replay Memory）",  # noqa: RUF001  (as it is printed)
        "DQN 算法",
        "Q_网络（Q_network）",  # noqa: RUF001  (as it is printed)
        "输入提取",
        "训练",
        "超参数和实用程序",
        "训练循环",
        "模块导入和参数设置",
        "神经网络",
        "DQN体系",
        "画3D图",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str) -> None:
    arguments = re.sub(r"configs/", f"{ROOT}/configs/", command).split()
    configs = ROOT / "configs"
    short = ["--trainer.max_steps=1", "--data.learning_starts_env_steps=150"]
    short += ["--data.eval_every_env_steps=null"]
    if arguments[0] == "fit":
        arguments += short
    if run := re.search(r"--ckpt_path checkpoints/(\w+)/last\.ckpt", command):
        pytest.importorskip("plotly")
        assert main(["fit", "--config", str(configs / f"{run[1]}.yaml"), *short]) == 0
    defaults = {"fit": configs / "cartpole.yaml", "screen": configs / "pytorch_tutorial.yaml"}
    assert main(arguments, default_configs=defaults) == 0
