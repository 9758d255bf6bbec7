"""The command `plot`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dqn_lightning.cli.main import main
from tests.helpers.processes import ROOT, environment

METRICS = "env_steps,train/episode_return,train/episode_length\n20,20,20\n35,15,15\n"


def make_run(name: str) -> Path:
    directory = Path("checkpoints", name)
    directory.mkdir(parents=True)
    (directory / "metrics.csv").write_text(METRICS)
    (directory / "config.yaml").write_text(f"run_name: {name}\n")
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def plot(*arguments: str) -> int:
    return main(["plot", *arguments])


def test_one_run_is_drawn_into_its_directory(capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("cartpole")
    assert plot(str(run)) == 0
    printed = re.findall(r"checkpoints/cartpole/plot\.\w+", capsys.readouterr().out)
    assert printed == ["checkpoints/cartpole/plot.png", "checkpoints/cartpole/plot.svg"]
    assert names(run) == ["config.yaml", "metrics.csv", "plot.png", "plot.svg"]
    with Image.open(run / "plot.png") as image:
        assert image.size[0] > 1_000
    assert "</svg>" in (run / "plot.svg").read_text()


def test_several_runs_are_drawn_into_the_working_directory() -> None:
    runs = [make_run("cartpole"), make_run("cartpole-2")]
    assert plot(*map(str, runs)) == 0
    assert names(Path()) == ["checkpoints", "plot.png", "plot.svg"]
    assert names(runs[0]) == ["config.yaml", "metrics.csv"]


def test_run_given_twice_is_drawn_once() -> None:
    run = make_run("cartpole")
    assert plot(str(run), f"{run}/", str(run.resolve())) == 0
    assert (run / "plot.png").is_file()


@pytest.mark.parametrize("name", ["seeds.png", "seeds.svg"])
def test_out_sets_the_file_and_its_format(name: str) -> None:
    run = make_run("cartpole")
    assert plot(str(run), "--out", name, "--window", "1") == 0
    assert names(Path()) == ["checkpoints", name]
    assert names(run) == ["config.yaml", "metrics.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], r"plot: .*checkpoints/cartpole"),
        (["nowhere"], r"nowhere"),
        (["checkpoints"], r"metrics\.csv .*checkpoints"),
        (["RUN", "--out=plot.pdf"], r"--out: .*\.png or \.svg.*plot\.pdf"),
        (["RUN", "--out=plot"], r"--out: .*\.png or \.svg.*plot"),
        (["RUN", "--out=a/b.png"], r"--out: a/b\.png .*No such file"),
        (["RUN", "--out=taken.png"], r"--out: taken\.png .*Is a directory"),
        (["RUN", "--window=0"], r"--window: must be at least 1, got 0"),
        (["RUN", "--window=many"], r"--window: .*'many'"),
        (["RUN", "--win=3"], r"--win=3.*plot --help"),
    ],
)
def test_invalid_arguments_are_reported_and_nothing_is_written(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("cartpole")
    Path("taken.png").mkdir()
    assert plot(*(str(run) if word == "RUN" else word for word in arguments)) == 2
    captured = capsys.readouterr()
    assert re.match(rf"error: .*{words}", captured.err), captured.err
    assert captured.out == ""
    assert names(Path()) == ["checkpoints", "taken.png"]
    assert names(run) == ["config.yaml", "metrics.csv"]


def test_help_lists_the_settings_that_may_differ_within_a_group(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as info:
        plot("--help")
    assert info.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "seed_everything, run_name, " in output


@pytest.mark.processes
def test_plot_does_not_import_pytorch_or_lightning() -> None:
    run = make_run("cartpole")
    command = f"""
import runpy, sys
sys.argv = ["train.py", "plot", {str(run)!r}]
try:
    runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0, stop.code
assert not {{"torch", "lightning", "gymnasium"}} & sys.modules.keys()
"""
    variables = {**environment(), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", command], check=True, env=variables, timeout=60)
    assert (run / "plot.svg").is_file()
