"""`python train.py plot` as a user types it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dqn_lightning.plots.command import main

ROOT = Path(__file__).parents[2]
METRICS = "env_steps,train/episode_return,train/episode_length\n20,20,20\n35,15,15\n"


def make_run(name: str) -> Path:
    folder = Path("checkpoints", name)
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(METRICS)
    (folder / "config.yaml").write_text(f"run_name: {name}\n")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_run_is_drawn_into_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("cartpole")
    assert main([str(run)]) == 0
    written = "written to checkpoints/cartpole/plot.png\nwritten to checkpoints/cartpole/plot.svg\n"
    assert capsys.readouterr().out == written
    assert names(run) == ["config.yaml", "metrics.csv", "plot.png", "plot.svg"]
    with Image.open(run / "plot.png") as picture:
        assert picture.size[0] > 1_000
    assert "</svg>" in (run / "plot.svg").read_text()


def test_several_runs_are_drawn_into_the_working_directory() -> None:
    runs = [make_run("cartpole"), make_run("cartpole-2")]
    assert main([str(run) for run in runs]) == 0
    assert names(Path()) == ["checkpoints", "plot.png", "plot.svg"]
    assert names(runs[0]) == ["config.yaml", "metrics.csv"]


def test_a_run_named_twice_is_one() -> None:
    run = make_run("cartpole")
    assert main([str(run), f"{run}/", str(run.resolve())]) == 0
    assert (run / "plot.png").is_file()


@pytest.mark.parametrize("name", ["seeds.png", "seeds.svg"])
def test_the_picture_can_be_named(name: str) -> None:
    run = make_run("cartpole")
    assert main([str(run), "--out", name, "--window", "1"]) == 0
    assert names(Path()) == ["checkpoints", name]
    assert names(run) == ["config.yaml", "metrics.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], r"plot: name the folder of a run, as checkpoints/cartpole"),
        (["nowhere"], r"plot: nowhere is no folder"),
        (["checkpoints"], r"plot: there is no metrics\.csv in checkpoints"),
        (["RUN", "--out=plot.pdf"], r"--out: must end in \.png or \.svg, got plot\.pdf"),
        (["RUN", "--out=plot"], r"--out: must end in \.png or \.svg, got plot"),
        (["RUN", "--out=a/b.png"], r"--out: a/b\.png cannot be written \(No such file or dir"),
        (["RUN", "--out=taken.png"], r"--out: taken\.png cannot be written \(Is a directory"),
        (["RUN", "--window=0"], r"--window: must be at least 1, got 0"),
        (["RUN", "--window=many"], r"plot: argument --window: invalid int value: 'many'"),
        (["RUN", "--win=3"], r"plot: unrecognized arguments: --win=3; see plot --help"),
    ],
)
def test_bad_input_is_said_and_nothing_written(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("cartpole")
    Path("taken.png").mkdir()
    assert main([str(run) if word == "RUN" else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert re.match(rf"error: {words}", captured.err), captured.err
    assert captured.out == ""
    assert names(Path()) == ["checkpoints", "taken.png"]
    assert names(run) == ["config.yaml", "metrics.csv"]


def test_help_says_which_runs_are_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        main(["--help"])
    assert info.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "equal but for seed_everything, run_name, " in output


def test_it_starts_without_pytorch_and_lightning() -> None:
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
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", command], check=True, env=environment, timeout=60)
    assert (run / "plot.svg").is_file()
