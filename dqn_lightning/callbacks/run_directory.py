"""Callback that creates a directory for each run, and the loggers that write to the directory."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from dqn_lightning import distributed
from dqn_lightning.checkpointing.files import atomic_write
from dqn_lightning.checkpointing.run_files import newest_checkpoint, remove_run_files
from dqn_lightning.checkpointing.run_lock import RunLock
from dqn_lightning.errors import RunLockedError
from dqn_lightning.loggers.csv import CSVLogger
from dqn_lightning.module import DQNModule

_ACTIVITIES = ("environment", "acting", "update", "evaluation", "rest")
_CHARTS = {
    "Run": {
        "return": ["train/return_mean", "eval/return_mean"],
        "episode length": ["train/length_mean", "eval/length_mean"],
        "loss and TD error": ["train/loss", "train/td_error"],
        "epsilon": ["train/epsilon"],
    },
    "Diagnostics": {
        "predicted and observed returns": [
            "diagnostics/q_mean",
            "diagnostics/q_max",
            "diagnostics/return_mean",
        ],
        "dormant units": ["diagnostics/dormant_share"],
        "effective rank of the features": ["diagnostics/effective_rank"],
        "gradient norm": ["diagnostics/gradient_norm"],
        "distance between target and online network": ["diagnostics/target_distance"],
        "mean age of sampled rows": ["diagnostics/row_age_mean"],
        "entropy of the priorities": ["diagnostics/priority_entropy"],
    },
    "Time": {
        "environment steps per second": ["time/env_steps_per_s"],
        "share of time per activity": [f"time/{activity}_share" for activity in _ACTIVITIES],
    },
}
"""Charts in TensorBoard's tab "Custom Scalars", as a mapping from category to title to tags."""


def run_directory_of(trainer: Trainer) -> Path | None:
    """Return the directory to which callbacks write, or None if no files may be written.

    All ranks must call this function, because Lightning broadcasts the directory from rank 0.
    """
    directory = trainer.log_dir
    return None if directory is None or trainer.fast_dev_run else Path(directory)


class RunDirectory(Callback):
    """Callback that creates a directory for each run, and attaches loggers that write to it.

    The directory is created only after all startup steps that can fail have succeeded, so a run
    that fails at startup leaves no files behind. Rank 0 locks the directory before it changes
    anything in it, and releases the lock when the fit ends.

    Args:
        root: Directory that contains the directories of all runs.
        name: Name of the run. If a run with this name already exists, `-2`, `-3`, … is appended.
        config_text: Function that is called with the final name of the run, and returns the text of
            `config.yaml`.
        resumed_path: Directory of the run that the next fit resumes; None for a new run. A second
            fit with the same callback always starts a new run.
        tensorboard: Whether to write TensorBoard events.
        restart: Whether the next fit starts a new run in the directory `name` even if it exists.
            The directory may contain files of a run that ended before its first checkpoint; these
            are deleted.

    Attributes:
        path: Directory of the current run; None before the first fit of a new run, and if
            `fast_dev_run` is set.
        resumed: Whether the current run was resumed in an existing directory.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        config_text: Callable[[str], str],
        resumed_path: Path | None = None,
        tensorboard: bool = True,
        restart: bool = False,
    ) -> None:
        self.root = root
        self.name = name
        self.config_text = config_text
        self.tensorboard = tensorboard
        self.path: Path | None = resumed_path
        self.resumed = resumed_path is not None
        self._resumed_path = resumed_path
        self._restart = restart
        self._lock: RunLock | None = None
        self._loggers: list[Logger] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the directory and attach the loggers, without writing any files yet.

        The directory of a resumed run is locked before its checkpoint is loaded.

        Raises:
            RunLockedError: If another process is writing to the directory.
        """
        if stage != "fit":
            return
        resumed_path, self._resumed_path = self._resumed_path, None
        self.path, self.resumed = None, resumed_path is not None
        if trainer.fast_dev_run:
            self._loggers = []
            return
        self.path = trainer.strategy.broadcast(resumed_path or self._free_path())
        self._attach_loggers(trainer)
        if self.resumed:
            distributed.from_rank_zero(self._lock_directory)

    def _attach_loggers(self, trainer: Trainer) -> None:
        """Replace the loggers of an earlier directory by loggers that write to `path`."""
        assert self.path is not None
        others = [each for each in trainer.loggers if each not in self._loggers]
        self._loggers = [CSVLogger(self.path)]
        if self.tensorboard:
            self._loggers.append(_EventLogger(self.path, name="", version=""))
        trainer.loggers = [*self._loggers, *others]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: DQNModule, checkpoint: dict[str, Any]
    ) -> None:
        """Purge TensorBoard events that are newer than the resumed checkpoint."""
        purge_step = pl_module.progress.env_steps + 1
        others = [each for each in trainer.loggers if each not in self._loggers]
        self._loggers = [
            _EventLogger(each.save_dir, name="", version="", purge_step=purge_step)
            if isinstance(each, _EventLogger)
            else each
            for each in self._loggers
        ]
        trainer.loggers = [*self._loggers, *others]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the directory, and write `config.yaml` with the current settings.

        Raises:
            RunLockedError: If another process is writing to the directory.
        """
        if self.path is None:
            return
        trainer.datamodule.check_schedule()  # needs the progress of a resumed run
        planned = self.path
        if not self.resumed:
            self.path = distributed.from_rank_zero(self._create_directory)
            self._restart = False
        if self.path != planned:
            self._attach_loggers(trainer)
        if trainer.is_global_zero:
            with atomic_write(self.path / "config.yaml") as unfinished:
                unfinished.write_text(self.config_text(self.path.name))
            for logger in self._loggers:
                if isinstance(logger, _EventLogger):
                    logger.log_charts()
        trainer.strategy.barrier()
        if not self.path.is_dir():
            print(
                f"rank {trainer.global_rank} cannot access {self.path}: to resume, all machines "
                "must share the run directory",
                file=sys.stderr,
            )
        if self.path.name != self.name and not self.resumed:
            rank_zero_info(f"{self.root / self.name} already exists")
        rank_zero_info(f"the run directory is {self.path}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write buffered metrics, and release the lock."""
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write buffered metrics, and release the lock."""
        self._release()

    def _free_path(self) -> Path:
        """Return the directory `name`, or a name with a number if it exists, unless restarting."""
        path, number = self.root / self.name, 1
        while os.path.lexists(path) and not self._restart:
            number += 1
            path = self.root / f"{self.name}-{number}"
        return path

    def _create_directory(self) -> Path:
        """Create, lock and return a directory; one that exists is used only for a restart."""
        path = self._free_path()
        try:
            path.mkdir(parents=True, exist_ok=self._restart)
        except FileExistsError:
            if self._restart:  # a file
                raise
            return self._create_directory()  # another run has created it in the meantime
        self.path = path
        self._lock_directory()
        if self._restart and newest_checkpoint(path) is None:
            remove_run_files(path)
        elif self._restart:
            self._release()
            raise RunLockedError(f"another process has written a checkpoint to {path}; start again")
        return path

    def _lock_directory(self) -> None:
        assert self.path is not None
        self._lock = RunLock(self.path)

    def _release(self) -> None:
        for logger in self._loggers:
            if isinstance(logger, CSVLogger):
                logger.finalize("success")  # Lightning finalizes loggers later
        if self._lock is not None:
            self._lock.release()


class _EventLogger(TensorBoardLogger):
    """TensorBoard logger that writes no hyperparameters, because `config.yaml` contains them."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing, because `config.yaml` contains the hyperparameters."""

    def log_charts(self) -> None:
        """Define TensorBoard charts that combine several metrics."""
        layout = {
            category: {title: ["Multiline", tags] for title, tags in charts.items()}
            for category, charts in _CHARTS.items()
        }
        self.experiment.add_custom_scalars(layout)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write metrics as events.

        Raises:
            OSError: If TensorBoard cannot write its file, for example because the disk is full.
        """
        with self._named_in_errors():
            super().log_metrics(dict(metrics), step)

    def save(self) -> None:
        """Flush events to disk, without writing `hparams.yaml`."""
        with self._named_in_errors():
            self.experiment.flush()

    @contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"TensorBoard's events in {self.save_dir} cannot be written: "
                f"{error.strerror or error}"
            ) from error
