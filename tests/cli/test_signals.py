"""Signals and failures that end a run, in a process of its own."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.commands import SHORT
from tests.helpers.processes import ROOT, command, environment
from tests.helpers.states import progress_of

pytestmark = pytest.mark.processes

RUN = Path("checkpoints/cartpole")


def start(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("fit", *SHORT, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), "PYTHONPATH": str(ROOT)},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError(f"{path} was not written")


def interrupt(process: subprocess.Popen[str]) -> str:
    """Send Ctrl-C, wait for the end, check the exit code and return the rest of the output."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize(("vectorization", "num_envs"), [("single", 1), ("async", 2)])
def test_ctrl_c_saves_the_run(vectorization: str, num_envs: int) -> None:
    process = start(
        "--data.schedule.total_env_steps=10000000",
        f"--data.env.vectorization={vectorization}",
        f"--data.env.num_envs={num_envs}",
    )
    wait_for(RUN / "best.ckpt", process)
    output = interrupt(process)
    env_steps = progress_of(RUN)["env_steps"]
    assert f"{env_steps:,} environment steps" in output


def test_ctrl_c_while_environments_are_created_stops_before_the_first_step() -> None:
    process = start("--data.env.id=tests.helpers.toy:toy/Slow-v0", "--data.env.num_envs=2")
    assert process.stdout is not None
    for line in process.stdout:
        if "replay: " in line:  # logged before the environments are created
            break
    time.sleep(0.3)
    interrupt(process)
    assert progress_of(RUN)["env_steps"] == 0


def test_ctrl_c_ends_an_endless_evaluation() -> None:
    process = start(
        "--data.env.id=tests.helpers.toy:toy/Endless-v0",
        "--data.evaluation.every_env_steps=10",
    )
    wait_for(RUN / "config.yaml", process)
    time.sleep(1.0)
    interrupt(process)
    assert (RUN / "last.ckpt").exists()
    assert not (RUN / "best.ckpt").exists()


def test_exception_of_an_environment_ends_the_run_with_its_traceback() -> None:
    process = start("--data.env.id=tests.helpers.toy:toy/Walk-v0", "--data.env.kwargs.fail_at=500")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ZeroDivisionError: the floor gave way" in output
    assert "environment 0 raised ZeroDivisionError" in output
    assert progress_of(RUN)["env_steps"] == 400
