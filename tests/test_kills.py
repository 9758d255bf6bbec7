"""Runs that are killed fifty times, at random moments, equal the uninterrupted run.

    pytest tests/test_kills.py -m slow

All processes of the run are killed at once by SIGKILL: while they start, while they train, and
while they save. The same command, with `--ckpt_path auto`, then starts or resumes the run. `KILLS`
in the environment changes the number of kills.
"""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqn_lightning.checkpointing import files, store
from tests.helpers.processes import command, environment
from tests.helpers.states import CARTPOLE_SHORT, assert_same_run, progress_of

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(3_600)]

KILLS = int(os.environ.get("KILLS", 50))
COMMON = (
    *CARTPOLE_SHORT,
    "--model.network.init_args.widths=[16]",
    "--data.replay.capacity=5000",
    "--data.schedule.rollout_env_steps=50",
    "--data.evaluation.every_env_steps=2000",
    "--data.evaluation.episodes=1",
    "--data.evaluation.env_kwargs.max_episode_steps=20",
    "--checkpoints.every_n_env_steps=100",
    "--checkpoints.keep_last=2",
    "--diagnostics.num_states=16",
    "--episode_log.save_plots=false",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
)
RUNS = {
    "prioritized, n-step, asynchronous": (
        1,
        "--data.replay.sampler=dqn_lightning.replay.Prioritized",
        "--data.replay.n_step=3",
        "--data.env.num_envs=2",
        "--data.env.vectorization=async",
        "--data.schedule.total_env_steps=12000",
    ),
    "two ranks": (2, "--trainer.devices=2", "--data.schedule.total_env_steps=12000"),
}
"""Number of ranks and flags of each run."""


def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own; its temporary files go to `temporary`."""
    temporary = Path("temporary").resolve()
    temporary.mkdir(exist_ok=True)
    return subprocess.Popen(
        command("fit", f"--run_name={name}", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=Path(f"{name}.log").open("ab"),
        env={**environment(), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def processes_of(group: int) -> Iterator[int]:
    """Yield the living processes of a process group."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == group and state != "Z":
            yield int(path.parent.name)


def names(directory: Path) -> set[str]:
    """Return the files of a run, without digests, and without the division of rows into files."""
    paths = (path.relative_to(directory).as_posix() for path in directory.rglob("*"))
    return {re.sub(r"-[0-9a-f]{12}\b", "", path) for path in paths if "/rows-" not in path}


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_killed_fifty_times_equals_the_uninterrupted_run(kind: str) -> None:
    num_ranks, *flags = RUNS[kind]
    flags = [*COMMON, *flags]
    one, two = Path("checkpoints/one"), Path("checkpoints/two")
    assert start("one", *flags).wait() == 0, Path("one.log").read_text()
    last, rng, progress, groups = two / "last.ckpt", random.Random(0), [0], []
    start_up_s = 0.0
    for kills in range(KILLS):
        written, started = mtime(last), time.monotonic()
        process = start("two", "--ckpt_path=auto", *flags)
        groups.append(process.pid)
        if start_up_s and kills % 3 == 0:  # at any moment, most of them while it starts
            time.sleep(rng.uniform(0, start_up_s))
        else:  # after its first save
            while process.poll() is None and mtime(last) == written:
                time.sleep(0.001)
            start_up_s = time.monotonic() - started
            time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, f"it ended after {kills} kills; {log('two')}"
        kill(process)
        unfinished = list(two.rglob(".tmp-*"))
        assert len(unfinished) <= num_ranks, unfinished
        if last.exists():
            progress.append(check_saved(two))
    assert progress == sorted(progress), "a saved checkpoint was lost"
    assert start("two", "--ckpt_path=auto", *flags).wait() == 0, log("two")
    print(f"{KILLS} kills at", progress, "of", progress_of(two)["env_steps"])
    assert "Traceback" not in log("two")
    assert_same_run(one, two, num_ranks)
    assert names(one) == names(two)
    assert [pid for group in groups for pid in processes_of(group)] == []
    assert [path for path in Path("temporary").rglob("*") if path.is_file()] == []


def log(name: str) -> str:
    return Path(f"{name}.log").read_text()[-3_000:]


def check_saved(run: Path) -> int:
    """Check that the last checkpoint is complete; return its environment step."""
    checkpoint = files.load(run / "last.ckpt", "source")
    progress = checkpoint["dqn_lightning"]["progress"]
    for rank, name in enumerate(checkpoint["full_state"]["files"]):
        store.SavedState(run, progress["run_id"], rank, name, "source")  # checks all files
    return int(progress["env_steps"])
