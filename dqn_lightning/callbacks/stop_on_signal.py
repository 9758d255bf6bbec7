"""Ends a run when it is asked to, so that it can be saved."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, Trainer

from dqn_lightning import ranks
from dqn_lightning.module import DQNModule

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Signals that end a run after its current step, and what the command line then exits with."""

if hasattr(signal, "SIGUSR1"):  # what SLURM can be told to send before a job's time is up
    EXIT_CODES[signal.SIGUSR1] = 75  # EX_TEMPFAIL: to be run again


class StopOnSignal(Callback):
    """Ctrl-C, SIGTERM and SIGUSR1 end the run after its current step; a second signal at once.

    Where there are several ranks, one that is sent to any of them ends the run after its current
    rollout.

    Attributes:
        received: The signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def listening(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` on a signal, from now on to the end of the block, setup included."""
        before = {number: signal.getsignal(number) for number in EXIT_CODES}
        self._listen(stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Listen again: Lightning's own listener would end the run without saving it."""
        if self.received is None:
            self._listen(trainer.datamodule.stop)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Hear what other ranks received."""
        if number := ranks.greatest(self.received or 0):
            self.received = signal.Signals(number)

    def _listen(self, stop: Callable[[], None]) -> None:
        unit = "rollout" if ranks.count() > 1 else "step"
        message = (
            f"stopping after this {unit}, then saving; a second signal stops at once\n".encode()
        )

        def handle(number: int, frame: Any) -> None:
            self.received = signal.Signals(number)
            for each in EXIT_CODES:
                default = signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL
                signal.signal(each, default)
            stop()
            os.write(sys.stderr.fileno(), message)  # nothing that takes a lock

        for number in EXIT_CODES:
            signal.signal(number, handle)
