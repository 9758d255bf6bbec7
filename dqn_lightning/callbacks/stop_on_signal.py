"""Callback that stops training on SIGINT, SIGTERM or SIGUSR1, so that the run can be saved."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, Trainer

from dqn_lightning import distributed
from dqn_lightning.module import DQNModule

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit code of the command line for each signal that stops training."""

if hasattr(signal, "SIGUSR1"):  # SLURM can send it before a job reaches its time limit
    EXIT_CODES[signal.SIGUSR1] = 75  # EX_TEMPFAIL: the job may be submitted again


class StopOnSignal(Callback):
    """Callback that stops training after the current step on Ctrl-C, SIGTERM or SIGUSR1.

    A second signal stops the process immediately. With several ranks, a signal to any rank stops
    all ranks after the current rollout.

    Attributes:
        received: Signal that stopped the run; None if no signal was received.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._in_context = False

    @contextmanager
    def handle_signals(self, stop: Callable[[], None]) -> Iterator[None]:
        """Return a context manager that handles signals, even before training starts.

        The previous signal handlers are restored on exit.

        Args:
            stop: Function that requests the end of training; called on the first signal.
        """
        previous = {number: signal.getsignal(number) for number in EXIT_CODES}
        self.received, self._in_context = None, True
        self._install_handlers(stop)
        try:
            yield
        finally:
            self._in_context = False
            for number, handler in previous.items():
                signal.signal(number, handler)

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Reset `received` at the start of a fit, except inside the `handle_signals` context."""
        if stage == "fit" and not self._in_context:
            self.received = None

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Replace Lightning's signal handlers, which would end the run without saving it."""
        if self.received is None:
            self._install_handlers(trainer.datamodule.stop)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Set `received` on all ranks if any rank has received a signal."""
        if number := distributed.all_reduce_max(self.received or 0):
            self.received = signal.Signals(number)

    def _install_handlers(self, stop: Callable[[], None]) -> None:
        unit = "rollout" if distributed.world_size() > 1 else "step"
        message = (
            f"stopping after this {unit}, then saving; a second signal stops at once\n".encode()
        )

        def handle(number: int, frame: Any) -> None:
            self.received = signal.Signals(number)
            for each in EXIT_CODES:
                default = signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL
                signal.signal(each, default)
            stop()
            os.write(sys.stderr.fileno(), message)  # print() is not safe in a signal handler

        for number in EXIT_CODES:
            signal.signal(number, handle)
