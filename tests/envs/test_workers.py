"""Worker processes that die or hang are reported, and none of them outlives the main process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqn_lightning.envs import EnvFactory
from dqn_lightning.envs.state import load_vector_state, vector_state
from dqn_lightning.envs.workers import WorkerVectorEnv
from dqn_lightning.errors import EnvironmentFailure
from tests.helpers import toy
from tests.helpers.processes import ROOT, environment

pytestmark = pytest.mark.processes


def make(env_id: str = "CartPole-v1", timeout_s: float | None = None, **kwargs: Any) -> Any:
    return EnvFactory(env_id, kwargs, step_timeout_s=timeout_s).make_vector(3, "async")


def step(envs: Any, steps: int = 1) -> None:
    for _ in range(steps):
        envs.step(np.zeros(envs.num_envs, np.int64))


def close(envs: Any, within_s: float = 3.0) -> None:
    """Close the environments, and check that no process is left."""
    started = time.monotonic()
    envs.close()
    assert time.monotonic() - started < within_s
    assert not any(process.is_alive() for process in envs.unwrapped.processes)


OPERATIONS = {
    "step": step,
    "reset": lambda envs: envs.reset(seed=0),
    "save": vector_state,
    "load": lambda envs: load_vector_state(envs, {"envs": [[], [], []]}),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_killed_worker_is_reported_with_its_environment(operation: str) -> None:
    envs = make()
    envs.reset(seed=0)
    os.kill(envs.unwrapped.processes[1].pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFailure, match="process of environment 1 was killed by SIGKILL"):
        OPERATIONS[operation](envs)
    close(envs)


def test_environments_can_be_closed_after_a_worker_was_killed() -> None:
    envs = make()
    envs.reset(seed=0)
    os.kill(envs.unwrapped.processes[1].pid, signal.SIGKILL)
    close(envs)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("os._exit", r"the process of environment \d ended with exit code 3"),
        ("segmentation fault", r"the process of environment \d was killed by SIGSEGV"),
    ],
)
def test_a_worker_that_ends_in_a_step_is_reported(fault: str, words: str) -> None:
    envs = make("toy/Faulty-v0", fault=fault)
    envs.reset(seed=0)
    with pytest.raises(EnvironmentFailure, match=words):
        step(envs, 20)
    close(envs)


class DiesInWorkers(toy.Walk):
    """A Walk that can be created in the main process only."""

    main_process = os.getpid()

    def __init__(self) -> None:
        super().__init__()
        if os.getpid() != self.main_process:
            os._exit(9)


def test_a_worker_that_ends_while_it_starts_is_reported() -> None:
    DiesInWorkers.main_process = os.getpid()
    with pytest.raises(EnvironmentFailure, match=r"environment [01] ended with exit code 9"):
        WorkerVectorEnv([DiesInWorkers, DiesInWorkers])


@pytest.mark.parametrize("at", [0, 5])
def test_an_environment_that_hangs_is_reported_after_the_timeout(at: int) -> None:
    envs = make("toy/Faulty-v0", timeout_s=0.3, fault="hang", at=at)
    hung = r"environments? [012, ]+ took longer .*data\.env\.step_timeout_s 0\.3"
    with pytest.raises(EnvironmentFailure, match=hung):
        reset_and_step(envs, 20)
    close(envs)


def reset_and_step(envs: Any, steps: int) -> None:
    envs.reset(seed=0)
    step(envs, steps)


def test_a_timeout_changes_no_result() -> None:
    results = []
    for timeout_s in (None, 60.0):
        envs = make(timeout_s=timeout_s)
        envs.reset(seed=3)
        steps = [[x.tolist() for x in envs.step(np.ones(3, np.int64))[:4]] for _ in range(40)]
        results.append(steps)
        close(envs)
    assert results[0] == results[1]


def test_ctrl_c_ends_a_step_that_hangs() -> None:
    envs = make("toy/Faulty-v0", fault="hang", at=1)
    envs.reset(seed=0)
    timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        step(envs)
    close(envs)


def test_workers_ignore_the_signals_that_stop_the_main_process() -> None:
    envs = make()
    envs.reset(seed=0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(envs.unwrapped.processes[1].pid, number)
    step(envs, 30)
    close(envs)


SCRIPT = """
import sys, time
import numpy as np
from dqn_lightning.envs import EnvFactory
from tests.helpers import toy
envs = EnvFactory("toy/Faulty-v0", {"fault": sys.argv[1], "at": 1}).make_vector(3, "async")
envs.reset(seed=0)
print(*[process.pid for process in envs.unwrapped.processes], flush=True)
if sys.argv[2] == "step":
    envs.step(np.zeros(3, np.int64))
elif sys.argv[2] == "wait":
    time.sleep(60)
"""


def start(fault: str, then: str) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, fault, then],
        stdout=subprocess.PIPE,
        text=True,
        env={**environment(), "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 3
    return process, workers


def assert_ended(pids: list[int], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while running := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, running
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie has ended, but its new parent has not asked for its exit code


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("fault", "then"), [("hang", "step"), ("hang in C", "step"), ("hang", "wait")]
)
def test_killing_the_main_process_leaves_no_orphans(fault: str, then: str) -> None:
    process, workers = start(fault, then)
    time.sleep(0.3)
    process.kill()
    process.wait(timeout=10)
    assert_ended(workers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_main_process_that_ends_without_closing_its_environments_leaves_no_orphans() -> None:
    process, workers = start("hang", "end")
    assert process.wait(timeout=10) == 0
    assert_ended(workers)
