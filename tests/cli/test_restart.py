"""`fit --ckpt_path auto` resumes a run or starts it in the same directory; runs are locked."""

import logging
import multiprocessing
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dqn_lightning.checkpointing import files
from dqn_lightning.checkpointing.run_lock import RunLock
from dqn_lightning.cli.main import main
from tests.helpers.commands import CARTPOLE, SHORT, assert_rejected, fit, read_files
from tests.helpers.states import assert_same_run, progress_of

pytestmark = pytest.mark.processes

RUN = Path("checkpoints/cartpole")
AUTO = ("--ckpt_path=auto", "--trainer.enable_progress_bar=false")
KILLED = 9


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that was never interrupted."""
    directory = tmp_path_factory.mktemp("undisturbed")
    process = fork(lambda: (os.chdir(directory), fit(*AUTO))[1])
    assert process == 0
    return directory / RUN


def fork(function: Callable[[], int]) -> int | None:
    """Call a function in a forked process, and return its exit code."""

    def exit_with_result() -> None:
        os._exit(function())

    process = multiprocessing.get_context("fork").Process(target=exit_with_result)
    process.start()
    process.join(60)
    return process.exitcode


def fit_killed_at(number: int, *flags: str) -> int | None:
    """Run `fit`, killed instead of renaming the temporary file with this number, from 1."""
    finalize, left = files.finalize, iter(range(number - 1))

    def kill_or_finalize(unfinished: Path, path: Path) -> None:
        if next(left, None) is None:
            os._exit(KILLED)
        finalize(unfinished, path)

    def run() -> int:
        files.finalize = kill_or_finalize
        return fit(*AUTO, *flags)

    return fork(run)


def all_names(directory: Path) -> set[str]:
    """Return the paths of all files, without digests and TensorBoard's host and time."""
    paths = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
    return {re.sub(r"-[0-9a-f]{12}\.pt|events\.out.*", "", path) for path in paths}


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7])
def test_a_run_killed_at_any_moment_is_the_same_run_when_it_is_called_again(
    number: int, undisturbed: Path
) -> None:
    # 1: config.yaml; 2: best.ckpt; 3 and 4: rows and state; 5: the first last.ckpt
    assert fit_killed_at(number) == KILLED
    assert (RUN / "last.ckpt").exists() == (number > 5)
    notes = RUN / "notes.txt"
    notes.write_text("mine")
    assert fit(*AUTO) == 0
    assert notes.read_text() == "mine"
    notes.unlink()
    assert_same_run(RUN, undisturbed)
    assert all_names(RUN) == all_names(undisturbed)
    assert [path.name for path in Path("checkpoints").iterdir()] == ["cartpole"]


def test_a_start_that_dies_twice_leaves_nothing_of_its_other_settings(undisturbed: Path) -> None:
    assert fit_killed_at(4, "--seed_everything=2", "--data.evaluation.every_env_steps=100") == 9
    assert fit_killed_at(2) == KILLED
    assert fit(*AUTO) == 0
    assert_same_run(RUN, undisturbed)
    assert all_names(RUN) == all_names(undisturbed)


def test_a_finished_run_is_over_and_is_not_changed(caplog: pytest.LogCaptureFixture) -> None:
    assert fit(*AUTO) == 0
    before = {n: c for n, c in read_files(RUN).items() if n.endswith((".csv", ".ckpt", ".pt"))}
    with caplog.at_level(logging.INFO):
        assert fit(*AUTO) == 0
    assert "the run is already over" in caplog.text
    after = read_files(RUN)
    assert before["checkpoints/cartpole/metrics.csv"] == after["checkpoints/cartpole/metrics.csv"]
    assert before.keys() <= after.keys()


def test_a_longer_run_given_by_flags_or_config_continues() -> None:
    assert fit(*AUTO) == 0
    assert main(["fit", *AUTO, "--data.schedule.total_env_steps=700"], {"fit": CARTPOLE}) == 0
    assert progress_of(RUN)["env_steps"] == 700
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    config["data"]["schedule"]["total_env_steps"] = 800
    Path("longer.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config=longer.yaml", *AUTO]) == 0  # the config contains the run's name
    assert progress_of(RUN)["env_steps"] == 800
    assert [path.name for path in Path("checkpoints").iterdir()] == ["cartpole"]


def test_a_numbered_checkpoint_is_resumed_if_the_last_one_is_missing() -> None:
    assert fit(*AUTO, "--checkpoints.keep_last=2") == 0
    (RUN / "last.ckpt").unlink()
    assert main(["fit", *AUTO, "--data.schedule.total_env_steps=700"], {"fit": CARTPOLE}) == 0
    assert progress_of(RUN)["env_steps"] == 700


def test_a_checkpoint_written_in_the_meantime_is_not_deleted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(directory: Path) -> RunLock:
        (directory / "last.ckpt").write_text("of another process")
        return RunLock(directory)

    monkeypatch.setattr("dqn_lightning.callbacks.run_directory.RunLock", lock)
    assert fit(*AUTO) == 1
    assert "another process has written a checkpoint to checkpoints/cartpole" in (
        capsys.readouterr().err
    )
    assert [path.name for path in RUN.iterdir()] == ["last.ckpt"]


def test_only_fit_takes_auto(capsys: pytest.CaptureFixture[str]) -> None:
    assert_rejected(["test", "--ckpt_path=auto"], "--ckpt_path: test cannot use auto", capsys)


@pytest.mark.parametrize("flag", ["--ckpt_path=last", "--ckpt_path=auto"])
def test_a_run_in_use_is_not_changed_by_a_second_process(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit() == 0
    lock = RunLock(RUN)
    before = read_files(RUN)
    assert fit(flag, "--data.schedule.total_env_steps=700") == 1
    assert read_files(RUN) == before
    error = f"error: checkpoints/cartpole is locked: process {os.getpid()} on "
    assert error in capsys.readouterr().err
    lock.release()
    assert fit(flag, "--data.schedule.total_env_steps=700") == 0
    assert not (RUN / ".lock").exists()


def test_two_runs_that_start_at_the_same_moment_get_two_directories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mkdir = Path.mkdir

    def lose_the_race(path: Path, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(Path, "mkdir", mkdir)
        mkdir(path, parents=True)
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", lose_the_race)
    assert fit() == 0
    assert not list(RUN.iterdir())
    assert (RUN.with_name("cartpole-2") / "metrics.csv").exists()
    config = yaml.safe_load((RUN.with_name("cartpole-2") / "config.yaml").read_text())
    assert config["run_name"] == "cartpole-2"


def test_a_fit_that_fails_releases_the_lock() -> None:
    flags = ("--data.env.id=tests.helpers.toy:toy/Walk-v0", "--data.env.kwargs.fail_at=500")
    assert main(["fit", *SHORT, *flags], {"fit": CARTPOLE}) == 1
    assert not (RUN / ".lock").exists()
    RunLock(RUN).release()
