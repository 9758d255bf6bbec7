"""Callback that creates a directory for each run, and the loggers that write to the directory."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from dqn_lightning.checkpointing.files import atomic_write
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
    that fails at startup leaves no files behind.

    Args:
        root: Directory that contains the directories of all runs.
        name: Name of the run. If a run with this name already exists, `-2`, `-3`, … is appended.
        config_text: Function that is called with the final name of the run, and returns the text of
            `config.yaml`.
        resumed_path: Directory of the run that the next fit resumes; None for a new run. A second
            fit with the same callback always starts a new run.
        tensorboard: Whether to write TensorBoard events.

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
    ) -> None:
        self.root = root
        self.name = name
        self.config_text = config_text
        self.tensorboard = tensorboard
        self.path: Path | None = resumed_path
        self.resumed = resumed_path is not None
        self._resumed_path = resumed_path
        self._loggers: list[Logger] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the directory and attach the loggers, without writing any files yet."""
        if stage != "fit":
            return
        trainer.loggers = [each for each in trainer.loggers if each not in self._loggers]
        resumed_path, self._resumed_path = self._resumed_path, None
        self.path, self.resumed, self._loggers = None, resumed_path is not None, []
        if trainer.fast_dev_run:
            return
        self.path = trainer.strategy.broadcast(resumed_path or self._free_path())
        self._loggers = [CSVLogger(self.path)]
        if self.tensorboard:
            self._loggers.append(_EventLogger(self.path, name="", version=""))
        trainer.loggers = [*self._loggers, *trainer.loggers]

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
        """Create the directory, and write `config.yaml` with the current settings."""
        if self.path is None:
            return
        if trainer.is_global_zero:
            self.path.mkdir(parents=True, exist_ok=self.resumed)
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

    def _free_path(self) -> Path:
        path, number = self.root / self.name, 1
        while path.exists():
            number += 1
            path = self.root / f"{self.name}-{number}"
        return path


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
