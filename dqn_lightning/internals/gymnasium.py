"""Access to private attributes of Gymnasium.

Checked against Gymnasium 1.4.0; the package supports Gymnasium >= 1.1. If one of these attributes
is removed or changes its meaning, `tests/internals/test_gymnasium.py` fails.
"""

import queue
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
from gymnasium.envs import registration
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray

from dqn_lightning.errors import EnvironmentFailure, InvalidEnvironmentError

RECORDED_ARGUMENTS = "_saved_kwargs"
"""Attribute in which `gymnasium.utils.RecordConstructorArgs` stores constructor arguments.

Every Gymnasium wrapper has this attribute. The arguments never change, so saved states omit them.
"""


def envs_to_reset(envs: SyncVectorEnv) -> NDArray[np.bool_]:
    """Return a mask [N] of the environments that will be reset in the next step.

    Saved states must contain this mask, which `SyncVectorEnv` does not expose publicly.
    """
    return envs._autoreset_envs


def set_envs_to_reset(envs: SyncVectorEnv, mask: NDArray[np.bool_]) -> None:
    """Set the mask [N] of the environments that will be reset in the next step."""
    envs._autoreset_envs = mask


def is_raised_by_make(error: Exception) -> bool:
    """Return whether `gymnasium.make` itself raised the error, rather than the code it called.

    If `make` raises a `TypeError`, the environment's constructor does not accept the arguments. A
    `TypeError` raised inside the constructor is a bug in the environment. Gymnasium does not
    distinguish these cases, so this function inspects the innermost frame of the traceback.
    """
    # `make` adds its arguments to the message of the original error.
    return _raising_module(error.__cause__ or error) == registration.__name__


def is_raised_by_wrapper(error: Exception) -> bool:
    """Return whether one of Gymnasium's wrappers raised the error, rather than the code it called.

    A wrapper's constructor raises errors of several types if it does not fit the environment.
    """
    return _raising_module(error).startswith("gymnasium.wrappers.")


def _raising_module(error: BaseException) -> str:
    innermost: TracebackType | None = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    return "" if innermost is None else str(innermost.tb_frame.f_globals.get("__name__"))


class WorkerTraceback(Exception):  # noqa: N818
    """Text of a traceback in a worker process, printed as the cause of an exception."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class CausedAsyncVectorEnv(AsyncVectorEnv[Any, Any]):
    """`AsyncVectorEnv` that raises a worker's exception with the worker's traceback as its cause.

    `AsyncVectorEnv` prints the traceback instead, even if the exception needs none, and raises the
    exception of a random environment if several fail. It also waits forever for the report of a
    worker that is killed while it fails.
    """

    def request_close(self) -> None:
        """Ask all workers to close their environments and to exit, without waiting for them."""
        for pipe in self.parent_pipes:
            if pipe is not None and not pipe.closed:
                with suppress(OSError):  # the worker has ended
                    pipe.send(("close", None))

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        failed = [index for index, success in enumerate(successes) if not success]
        if not failed:
            return
        try:
            reports = [self.error_queue.get(timeout=10) for _ in failed]
        except queue.Empty:
            raise EnvironmentFailure(
                f"environment {failed[0]} failed, but its process ended before it reported why"
            ) from None
        _, kind, message, trace = min(reports, key=lambda report: report[0])
        described = issubclass(kind, InvalidEnvironmentError)
        raise kind(message) from None if described else WorkerTraceback(trace)
