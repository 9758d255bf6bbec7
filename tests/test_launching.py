"""Several ranks from the command line, as a user starts them."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqn_lightning import files
from tests.processes import command, environment, finish, on_machines, torchrun
from tests.test_ranks import saved
from tests.test_resume import CARTPOLE_SHORT, differences

FIT = (
    "fit",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--data.rollout_env_steps=50",
    "--checkpoints.every_n_env_steps=100",
)
HALF, WHOLE = "--data.total_env_steps=900", "--data.total_env_steps=1600"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two ranks that nothing interrupted, started by the program itself."""
    folder = tmp_path_factory.mktemp("one")
    arguments = (*FIT, *CARTPOLE_SHORT, "--trainer.devices=2", WHOLE)
    result = subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("reached         1,600 environment steps") == 1  # by one rank only
    return folder / "checkpoints" / "cartpole"


def assert_the_same(run: Path, one: Path) -> None:
    ours, theirs = saved(str(run), 2), saved(str(one), 2)
    for state in (ours, theirs):  # paths and times differ
        state["callbacks"] = {k: v for k, v in state["callbacks"].items() if "Timing" not in k}
    assert ours["clock"][2] > 300
    assert differences(ours, theirs) == []


@pytest.mark.timeout(300)
def test_a_run_started_by_torchrun_goes_on_by_itself_as_the_same_run(one: Path) -> None:
    launched = torchrun("--standalone", "--nproc_per_node=2")
    begun = finish([*launched, *FIT, *CARTPOLE_SHORT, "--trainer.devices=2", HALF])
    assert begun.returncode == 0, begun.stderr
    went_on = finish(command("fit", "--ckpt_path=last", WHOLE))
    assert went_on.returncode == 0, went_on.stderr
    assert_the_same(Path("checkpoints/cartpole"), one)
    tested = finish(command("test", "--ckpt_path=checkpoints/cartpole/best.ckpt"))
    assert tested.returncode == 0, tested.stderr
    assert "over 100 episodes" in tested.stdout


def test_as_many_processes_are_started_as_the_trainer_is_told_of() -> None:
    launched = torchrun("--standalone", "--nproc_per_node=2")
    result = finish([*launched, *FIT, *CARTPOLE_SHORT, "--trainer.devices=1", HALF])
    assert result.returncode != 0
    assert "trainer.devices, trainer.num_nodes: 2 processes were started, but" in result.stderr
    assert not list(Path().iterdir())


def test_synchronised_batch_normalisation_is_refused_where_pytorch_has_none() -> None:
    flags = ("--trainer.sync_batchnorm=true", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
    result = finish(command(*FIT, *CARTPOLE_SHORT, *flags))
    assert result.returncode == 2
    assert "error: trainer.sync_batchnorm: PyTorch has it for GPUs only" in result.stderr


@pytest.mark.timeout(300)
def test_two_machines_train_and_go_on_as_the_same_run(one: Path) -> None:
    """Two agents of torchrun with ranks of their own, which meet at a port of this machine."""
    on_machines(2, *FIT, *CARTPOLE_SHORT, HALF)
    on_machines(2, "fit", "--ckpt_path=last", WHOLE)
    assert_the_same(Path("checkpoints/cartpole"), one)


@pytest.fixture
def endless() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run of two ranks that has saved: its first process, and the second one's number."""
    arguments = (*FIT, *CARTPOLE_SHORT, "--trainer.devices=2", "--data.total_env_steps=10000000")
    first = subprocess.Popen(
        command(*arguments), env=environment(), stderr=subprocess.PIPE, text=True
    )
    last = Path("checkpoints/cartpole/last.ckpt")
    while first.poll() is None and not last.exists():
        time.sleep(0.05)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    programs = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
    (second,) = [pid for pid, program in programs.items() if "train.py" in program]
    yield first, second
    for pid in (first.pid, second):
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    first.communicate()


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_within_a_minute(
    killed: int, endless: tuple[subprocess.Popen[str], int]
) -> None:
    first, second = endless
    pids = [first.pid, second]
    os.kill(pids[killed], signal.SIGKILL)
    started = time.monotonic()
    _, error = first.communicate(timeout=60)  # of both: they share it
    while is_running(pids[1 - killed]) and time.monotonic() - started < 60:
        time.sleep(0.05)
    assert not is_running(pids[1 - killed])
    assert f"error (rank {1 - killed}): rank {killed} (" in error
    assert f"process {pids[killed]}) has ended" in error
    assert "Traceback" not in error
    checkpoint = files.load(Path("checkpoints/cartpole/last.ckpt"), "it")
    for rank, name in enumerate(checkpoint["full_state"]["files"]):
        side = Path("checkpoints/cartpole/state", f"rank-{rank}")
        for *_, rows in files.load(side / name, "it")["pieces"]:
            files.load(side / rows, "it")


def test_a_signal_to_one_rank_saves_and_ends_all(
    endless: tuple[subprocess.Popen[str], int],
) -> None:
    first, second = endless
    os.kill(second, signal.SIGTERM)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 143
    assert "stopping after this rollout, then saving" in error
    assert not is_running(second)
    assert not [path for path in Path("checkpoints").rglob(".*") if path.is_file()]
