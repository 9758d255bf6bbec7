"""Vector environment whose environments run in worker processes that never outlive the run.

A worker that dies or hangs causes an error that names its environment. Workers ignore the signals
that the main process handles, and they end when the main process ends, even if it is killed.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import Autoreset

from dqn_lightning.checkpointing.serialization import from_bytes, to_bytes
from dqn_lightning.envs.state import NotRestorableError, env_state, load_env_state
from dqn_lightning.errors import EnvironmentFailure
from dqn_lightning.internals.gymnasium import CausedAsyncVectorEnv

_GRACE_S = 5.0
"""Time in which workers must close their environments before they are killed."""

_PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h


class WorkerVectorEnv(CausedAsyncVectorEnv):
    """Vector environment that steps each environment in a worker process.

    An environment resets in the step after the end of an episode. Each step overwrites the
    observations returned by the previous step. After an error, the only valid call is `close`.

    Args:
        env_fns: Functions that create the environments. They are called in the worker processes;
            the first is also called in this process, to read the spaces.
        step_timeout_s: Maximum time in seconds for one step or reset of all environments; unlimited
            if None.

    Raises:
        EnvironmentFailure: If a worker process ended before it had created its environment.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        step_timeout_s: float | None = None,
    ) -> None:
        self._step_timeout_s = step_timeout_s
        self.processes, self.parent_pipes = [], []
        in_main_thread = threading.current_thread() is threading.main_thread()
        workers = [
            partial(_make_in_worker, make, index, os.getpid(), in_main_thread)
            for index, make in enumerate(env_fns)
        ]
        try:
            with self._describing_failures():
                # A wrapper in each worker performs the autoreset, because a worker's own flag for
                # it cannot be restored.
                super().__init__(workers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.close(terminate=True)
            raise
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        # A priority of at least 0 is needed to run before multiprocessing's exit handler, which
        # would wait forever for workers that ignore SIGTERM.
        self._kill_at_exit = Finalize(self, _kill, [self.processes], exitpriority=0)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment.

        Raises:
            EnvironmentFailure: If an environment failed, its worker process ended, or the timeout
                was exceeded.
        """
        with self._describing_failures():
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(self._step_timeout_s)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every environment.

        Raises:
            EnvironmentFailure: If an environment failed, its worker process ended, or the timeout
                was exceeded.
        """
        with self._describing_failures():
            self.step_async(actions)
            return self.step_wait(self._step_timeout_s)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment; return the results.

        Raises:
            EnvironmentFailure: If a worker process ended.
        """
        with self._describing_failures():
            return super().call(name, *args, **kwargs)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the environments, and kill workers that do not respond.

        Args:
            timeout: Time in seconds after which workers are killed; 5 seconds if None.
            terminate: Whether to kill all workers immediately.
        """
        if not terminate:
            self.request_close()
            deadline = time.monotonic() + (_GRACE_S if timeout is None else timeout)
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
        _kill(self.processes)
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()

    @contextmanager
    def _describing_failures(self) -> Iterator[None]:
        """Convert errors of the pipes to errors that name the environment."""
        try:
            yield
        except (EOFError, ConnectionError):
            raise EnvironmentFailure(self._lost_worker()) from None
        except multiprocessing.TimeoutError:
            raise EnvironmentFailure(self._stuck_workers()) from None
        except Exception:
            raise
        except BaseException:  # Ctrl-C: an environment may hang, so it cannot be closed
            _kill(self.processes)
            raise

    def _lost_worker(self) -> str:
        """Return a message about a worker that ended unexpectedly."""
        ended = wait([process.sentinel for process in self.processes], _GRACE_S)
        for index, process in enumerate(self.processes):
            if process.sentinel in ended:
                process.join(_GRACE_S)
                return f"the process of environment {index} {_describe_exit(process.exitcode)}"
        return "a worker process closed its connection"

    def _stuck_workers(self) -> str:
        """Kill the workers that have not responded; return a message about them."""
        stuck = [index for index, pipe in enumerate(self.parent_pipes) if not pipe.poll()]
        _kill([self.processes[index] for index in stuck])
        environments = "environments" if len(stuck) > 1 else "environment"
        return (
            f"{environments} {', '.join(map(str, stuck))} took longer for a step than "
            f"data.env.step_timeout_s {self._step_timeout_s}"
        )


class WorkerState(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that gives the main process access to the environment state in a worker process."""

    def __init__(self, env: gym.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index = index

    def saved_state(self) -> bytes:
        """Return the state of this worker's environment: `to_bytes` of its `env_state`."""
        return to_bytes(env_state(self.env))

    def restore_state(self, states: list[bytes]) -> str:
        """Restore the state of this worker's environment.

        An error is returned instead of raised, because an exception would end the worker process.

        Args:
            states: States of the environments of all workers.

        Returns:
            An error message, or an empty string on success.
        """
        try:
            load_env_state(self.env, from_bytes(states[self.index]))
        except NotRestorableError as error:
            return str(error)
        return ""


def _make_in_worker(
    make: Callable[[], gym.Env[Any, Any]], index: int, main_pid: int, in_main_thread: bool
) -> gym.Env[Any, Any]:
    if os.getpid() != main_pid:  # Gymnasium also creates one environment in the main process
        _ignore_signals()
        _end_with_main_process(in_main_thread)
    return WorkerState(Autoreset(make()), index)


def _ignore_signals() -> None:
    """Ignore the signals that the main process handles; a terminal sends Ctrl-C to all processes.

    An environment's own subprocesses must not ignore SIGTERM, so there is a handler, which they do
    not inherit, instead of SIG_IGN.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: None)


def _end_with_main_process(in_main_thread: bool) -> None:
    """End this process when the main process ends, even if the environment hangs.

    Args:
        in_main_thread: Whether the main thread of the main process started this process.
    """
    threading.Thread(target=_exit_after_main_process, daemon=True).start()
    # The thread cannot run while an environment holds the GIL, but Linux can send SIGKILL. It does
    # so when the thread that started this process ends, so that must be the main thread.
    if in_main_thread and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_after_main_process() -> None:
    main_process = multiprocessing.parent_process()
    assert main_process is not None
    wait([main_process.sentinel])
    os._exit(1)


def _kill(processes: Iterable[BaseProcess]) -> None:
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.kill()
    for process in started:
        process.join(_GRACE_S)


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal
        name = f"signal {-exit_code}"
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
