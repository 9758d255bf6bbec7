"""Callback that stops training on SIGINT, SIGTERM or SIGUSR1, so that the run can be saved."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info

from dqn_lightning import distributed
from dqn_lightning.module import DQNModule

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit code of the command line for each signal that stops training."""

if hasattr(signal, "SIGUSR1"):  # SLURM can send it before a job reaches its time limit
    EXIT_CODES[signal.SIGUSR1] = 75  # EX_TEMPFAIL: the job may be submitted again


class StopOnSignal(Callback):
    """Callback that stops training after the current step on Ctrl-C, SIGTERM or SIGUSR1.

    A second signal stops the process immediately. With several ranks, a signal to any rank stops
    all ranks after the current rollout; before training starts, it ends the process immediately.

    Attributes:
        received: Signal that stopped the run; None if no signal was received.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._in_context = False

    @contextmanager
    def handle_signals(self, stop: Callable[[], None], num_ranks: int = 1) -> Iterator[None]:
        """Return a context manager that handles signals, even before training starts.

        With several ranks, the operating system's default handlers are used until training starts,
        because the process may wait for other ranks, and Python handlers are not called during that
        time. There is nothing to save yet.

        The previous signal handlers are restored on exit.

        Args:
            stop: Function that requests the end of training; called on the first signal.
            num_ranks: Number of ranks that will train together.
        """
        previous = {number: signal.getsignal(number) for number in EXIT_CODES}
        self.received, self._in_context = None, True
        if num_ranks == 1:
            self._install_handlers(stop)
        else:
            for number in EXIT_CODES:
                signal.signal(number, signal.SIG_DFL)
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
        received = distributed.all_gather(self.received and int(self.received))
        rank = next((rank for rank, number in enumerate(received) if number is not None), None)
        if rank is None:
            return
        self.received = signal.Signals(received[rank])
        if rank > 0:  # rank 0 has not announced the stop
            rank_zero_info(
                f"rank {rank} received {self.received.name}: stopping after this rollout"
            )

    def _install_handlers(self, stop: Callable[[], None]) -> None:
        unit = "rollout" if distributed.world_size() > 1 else "step"
        message = (
            f"stopping after this {unit}, then saving; a second signal stops at once\n".encode()
        )
        process_id, announces = os.getpid(), distributed.rank() == 0

        def handle(number: int, frame: Any) -> None:
            if os.getpid() != process_id:  # a forked process, to whose group the signal was sent
                return
            self.received = signal.Signals(number)
            for each in EXIT_CODES:
                default = signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL
                signal.signal(each, default)
            stop()
            if announces:
                os.write(sys.stderr.fileno(), message)  # print() is not safe in a signal handler

        for number in EXIT_CODES:
            signal.signal(number, handle)
