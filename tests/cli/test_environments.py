"""Errors of an environment are reported by commands in one line that names the environment."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import dqn_lightning.cli.app  # noqa: F401  (Lightning logs to the stderr of its import)
from tests.helpers.commands import SHORT, fit
from tests.helpers.processes import command, environment
from tests.helpers.states import progress_of

FAULTY = "--data.env.id=tests.helpers.toy:toy/Faulty-v0"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan reward", "environment 0 returned the reward nan, which is not a finite number"),
        ("sys.exit", r"environment 0 called sys\.exit\(3\)"),
        ("os.chdir", r"an environment changed the working directory to / \(os\.chdir\), but .*"),
    ],
)
def test_a_faulty_environment_ends_the_run_with_one_line(
    fault: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(FAULTY, f"--data.env.kwargs={{fault: {fault}, at: 300}}") == 1
    error = capsys.readouterr().err
    assert re.fullmatch(f"error: after environment step (299|30.), {words}", error.splitlines()[-1])
    assert "Traceback" not in error
    assert progress_of("checkpoints/cartpole")["env_steps"] == 200


def test_an_environment_may_change_the_working_directory_when_it_is_created(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit("--data.env.id=tests.helpers.toy:toy/Elsewhere-v0") == 0
    assert Path.cwd() == tmp_path
    assert (tmp_path / "checkpoints/cartpole/last.ckpt").exists()
    (message,) = [record.getMessage() for record in caplog.records if "directory to" in record.msg]
    assert re.search(r"data\.env\.id: .*Elsewhere-v0 changed the working directory to /;", message)


ASYNC = ["--data.env.vectorization=async", "--data.env.num_envs=2"]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("fault", "words", "flags"),
    [
        ("os._exit", r"the process of environment \d ended with exit code 3", []),
        (
            "hang",
            r"environments? [01, ]+ took longer for a step than data\.env\.step_timeout_s 0\.5",
            ["--data.env.step_timeout_s=0.5"],
        ),
    ],
)
def test_a_lost_worker_ends_the_run_with_one_line_and_its_last_checkpoint_can_be_resumed(
    fault: str, words: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kwargs = f"--data.env.kwargs={{fault: {fault}, at: 250}}"
    assert fit(FAULTY, kwargs, *ASYNC, *flags) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(f"error: after environment step \\d+, {words}", error.splitlines()[-1])
    assert "Traceback" not in error
    assert progress_of("checkpoints/cartpole")["env_steps"] == 400
    last = "--ckpt_path=checkpoints/cartpole/last.ckpt"
    # Each environment takes 100 more steps, fewer than the fault needs.
    assert fit(last, "--trust_config", FAULTY, kwargs, *ASYNC, *flags) == 0


@pytest.mark.processes
def test_a_second_ctrl_c_ends_a_run_whose_environments_hang() -> None:
    kwargs = "--data.env.kwargs={fault: hang in C, at: 200}"
    process = subprocess.Popen(
        command("fit", *SHORT, FAULTY, kwargs, *ASYNC, "--data.evaluation.episodes=1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    while not Path("checkpoints/cartpole/last.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)  # until the last process closes the pipe
    assert process.returncode == 130, output
