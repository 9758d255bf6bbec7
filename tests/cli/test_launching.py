"""Training on several ranks, started from the command line."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from dqn_lightning.checkpointing import files
from tests.helpers.commands import CARTPOLE
from tests.helpers.processes import (
    ROOT,
    command,
    environment,
    finish,
    free_port,
    main_in_ranks,
    on_machines,
    torchrun,
)
from tests.helpers.states import CARTPOLE_SHORT, assert_same_run, progress_of

pytestmark = pytest.mark.processes

FIT = (
    "fit",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--data.schedule.rollout_env_steps=50",
    "--checkpoints.every_n_env_steps=100",
    *CARTPOLE_SHORT,
)
FIRST_PART = "--data.schedule.total_env_steps=900"
BOTH_PARTS = "--data.schedule.total_env_steps=1600"
RUN = Path("checkpoints/cartpole")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of an uninterrupted run of two ranks, which Lightning started."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    result = subprocess.run(
        command(*FIT, "--trainer.devices=2", BOTH_PARTS),
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("1,600 environment steps") == 1  # printed by rank 0 only
    assert progress_of(directory / RUN)["grad_steps"] > 300
    return directory / RUN


@pytest.mark.timeout(300)
def test_run_started_by_torchrun_resumes_without_it_as_the_same_run(uninterrupted: Path) -> None:
    launcher = torchrun("--standalone", "--nproc_per_node=2")
    first = finish([*launcher, *FIT, "--trainer.devices=2", FIRST_PART])
    assert first.returncode == 0, first.stderr
    second = finish(command("fit", "--ckpt_path=last", BOTH_PARTS))
    assert second.returncode == 0, second.stderr
    assert_same_run(RUN, uninterrupted, num_ranks=2)
    tested = finish(command("test", f"--ckpt_path={RUN}/best.ckpt"))  # in one process
    assert tested.returncode == 0, tested.stderr
    assert "over 100 episodes" in tested.stdout


@pytest.mark.timeout(300)
def test_run_on_two_machines_resumes_as_the_same_run(uninterrupted: Path) -> None:
    on_machines(2, *FIT, FIRST_PART)
    on_machines(2, "fit", "--ckpt_path=last", BOTH_PARTS)
    assert_same_run(RUN, uninterrupted, num_ranks=2)


class KillOnce(Callback):
    """Kills rank 1 before the first checkpoint, unless it has done so before."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        marker = Path("killed")
        if trainer.global_rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(300)
def test_torchrun_restarts_a_run_that_died_before_its_first_checkpoint(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = torchrun("--standalone", "--nproc_per_node=2", "--max_restarts=1")
    flags = ("--ckpt_path=auto", "--trainer.devices=2", BOTH_PARTS)
    killer = f"--trainer.callbacks+={__name__}.KillOnce"
    # Otherwise the restarted ranks share a store with addresses of the killed ones.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = finish([*launcher, *FIT, *flags, killer])
    assert result.returncode == 0, result.stderr
    assert Path("killed").exists()
    assert_same_run(RUN, uninterrupted, num_ranks=2)
    assert [path.name for path in Path("checkpoints").iterdir()] == ["cartpole"]


def test_number_of_started_processes_must_match_the_trainer() -> None:
    launcher = torchrun("--standalone", "--nproc_per_node=2")
    result = finish([*launcher, *FIT, "--trainer.devices=1", FIRST_PART])
    assert result.returncode != 0
    assert "trainer.devices, trainer.num_nodes: 2 processes" in result.stderr
    assert not list(Path().iterdir())


def test_ranks_with_different_settings_are_rejected_on_all_ranks() -> None:
    fit = ("fit", "--data.replay.capacity=2000")
    different = ("--data.replay.batch_size=32", "--target_sync.every_n_env_steps=5")
    env = ("--data.env.kwargs.max_episode_steps=7",)
    ranks = main_in_ranks(fit, (*fit, *different), (*fit, *env), default_configs={"fit": CARTPOLE})
    for rank, (exit_code, error) in enumerate(ranks):
        assert exit_code == 2, error
        assert f"error (rank {rank}): " in error
        assert "data.replay.batch_size: 64 (rank 0, 2), 32 (rank 1); " in error
        assert "data.env.kwargs.max_episode_steps: null (rank 0, 1), 7 (rank 2): " in error
        assert "target_sync.every_n_env_steps: 10 (rank 0, 2), 5 (rank 1)" in error
        assert "num_envs" not in error
        assert "Traceback" not in error
    assert not Path("checkpoints").exists()


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        ((exit_code, error),) = main_in_ranks(["fit"], port=port, default_configs={"fit": CARTPOLE})
    assert exit_code == 1
    assert error == (
        f"error: the ranks cannot connect at 127.0.0.1:{port}: another process uses the port; "
        "choose another MASTER_PORT\n"
    )


def test_sync_batchnorm_on_cpus_is_rejected() -> None:
    flags = ("--trainer.sync_batchnorm=true", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
    result = finish(command(*FIT, *flags))
    assert result.returncode == 2
    assert "error: trainer.sync_batchnorm" in result.stderr
    assert "GPU" in result.stderr


@pytest.fixture
def endless_run() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start an endless run of two ranks; return rank 0's process and both process ids.

    The run has saved a checkpoint.
    """
    flags = ("--trainer.devices=2", "--data.schedule.total_env_steps=10000000")
    first = subprocess.Popen(
        command(*FIT, *flags), env=environment(), stderr=subprocess.PIPE, text=True
    )
    while first.poll() is None and not (RUN / "last.ckpt").exists():
        time.sleep(0.05)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    programs = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
    (second,) = [pid for pid, program in programs.items() if "train.py" in program]
    yield first, [first.pid, second]
    for pid in (first.pid, second):
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    first.communicate()


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()  # Z: ended, not waited for
    except OSError:
        return False


@pytest.mark.parametrize("killed", [0, 1])
def test_killing_a_rank_ends_the_other_within_a_minute(
    killed: int, endless_run: tuple[subprocess.Popen[str], list[int]]
) -> None:
    first, pids = endless_run
    os.kill(pids[killed], signal.SIGKILL)
    started = time.monotonic()
    _, error = first.communicate(timeout=60)  # both ranks write to the same pipe
    while is_running(pids[1 - killed]) and time.monotonic() - started < 60:
        time.sleep(0.05)
    assert not is_running(pids[1 - killed])
    assert f"error (rank {1 - killed}): rank {killed} (" in error
    assert f"process {pids[killed]})" in error
    assert "Traceback" not in error
    checkpoint = files.load(RUN / "last.ckpt", "last.ckpt")
    for rank, name in enumerate(checkpoint["full_state"]["files"]):
        directory = RUN / "state" / f"rank-{rank}"
        for *_, rows in files.load(directory / name, name)["pieces"]:
            files.load(directory / rows, rows)


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGINT)])
def test_signal_ends_a_process_that_waits_for_another_machine(
    rank: int, number: signal.Signals
) -> None:
    machine = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    process = subprocess.Popen(
        command(*FIT, "--trainer.num_nodes=2", "--trainer.devices=1"),
        env={**environment(), **machine, "NODE_RANK": str(rank), "LOCAL_RANK": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    next(line for line in process.stderr if "Initializing distributed" in line)
    time.sleep(0.5)
    process.send_signal(number)
    try:
        _, error = process.communicate(timeout=5)
    finally:
        process.kill()
    assert process.returncode == -number
    assert error == ""
    assert not Path("checkpoints").exists()


def test_signal_to_all_processes_of_a_run_prints_one_line() -> None:
    flags = ("--data.env.vectorization=async", "--data.env.num_envs=2")
    totals = ("--trainer.devices=2", "--data.schedule.total_env_steps=10000000")
    process = subprocess.Popen(
        command(*FIT, *flags, *totals),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    next(line for line in process.stderr if "engine:" in line)
    while process.poll() is None and not (RUN / "last.ckpt").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        _, error = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    message = "stopping after this rollout, then saving; a second signal stops at once\n"
    assert error == message
    assert process.returncode == 143


def test_signal_to_one_rank_saves_and_ends_all(
    endless_run: tuple[subprocess.Popen[str], list[int]],
) -> None:
    first, pids = endless_run
    os.kill(pids[1], signal.SIGTERM)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 143
    assert error.count("rank 1 received SIGTERM: stopping after this rollout") == 1
    assert not is_running(pids[1])
    unfinished = [path for path in Path("checkpoints").rglob(".*") if path.is_file()]
    assert not unfinished
