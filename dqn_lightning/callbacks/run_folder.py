"""One folder per run."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from dqn_lightning.csv_log import CSVLog

_PARTS = ("environment", "acting", "update", "evaluation", "rest")
_LAYOUT = {
    "Run": {
        "return": ["train/return_mean", "eval/return_mean"],
        "episode length": ["train/length_mean", "eval/length_mean"],
        "loss and TD error": ["train/loss", "train/td_error"],
        "epsilon": ["train/epsilon"],
    },
    "Health": {
        "action values and the return reached": [
            "health/q_mean",
            "health/q_max",
            "health/return_mean",
        ],
        "dormant units": ["health/dormant_share"],
        "rank of the features": ["health/effective_rank"],
        "gradient": ["health/gradient_norm"],
        "target behind online": ["health/target_distance"],
        "age of rows": ["health/row_age_mean"],
        "entropy of priorities": ["health/priority_entropy"],
    },
    "Time": {
        "steps per second": ["time/env_steps_per_s"],
        "shares": [f"time/{part}_share" for part in _PARTS],
    },
}
"""What TensorBoard's tab "Custom Scalars" shows: of each category the charts, of each its tags."""


def folder_of_run(trainer: Trainer) -> Path | None:
    """Where callbacks write, if they do; all ranks must ask, for Lightning sends it around."""
    folder = trainer.log_dir
    return None if folder is None or trainer.fast_dev_run else Path(folder)


class RunFolder(Callback):
    """Gives the run its folder, and the trainer the loggers that write into it.

    The folder is made when everything that may fail at the start has succeeded, so a run that
    fails there leaves nothing behind.

    Args:
        root: Folder of all runs.
        name: The run's name; if a run of that name is there, `-2`, `-3`, … is added.
        config_text: Gives the text of `config.yaml` for the run's final name.
        resumed: Folder of the run to go on with, or None for a new run.
        tensorboard: Whether to write TensorBoard events too.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        config_text: Callable[[str], str],
        resumed: Path | None = None,
        tensorboard: bool = True,
    ) -> None:
        self.root = root
        self.name = name
        self.config_text = config_text
        self.path = resumed
        self.resumed = resumed is not None
        self.tensorboard = tensorboard

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the folder and attach the loggers, which write nothing yet."""
        if trainer.fast_dev_run:
            return
        self.path = trainer.strategy.broadcast(self.path or self._free_folder())
        ours: list[Logger] = [CSVLog(self.path)]
        if self.tensorboard:
            ours.append(_Events(self.path, name="", version=""))
        trainer.loggers = [*ours, *trainer.loggers]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have TensorBoard forget what a run had done after the checkpoint that it goes on from."""
        after = checkpoint["clock"][0] + 1
        trainer.loggers = [
            _Events(logger.save_dir, name="", version="", purge_step=after)
            if isinstance(logger, _Events)
            else logger
            for logger in trainer.loggers
        ]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folder and write what the run is made with, from here on if it is resumed."""
        if self.path is None:
            return
        if trainer.is_global_zero:
            self.path.mkdir(parents=True, exist_ok=self.resumed)
            unfinished = self.path / ".config.yaml.tmp"
            unfinished.write_text(self.config_text(self.path.name))
            unfinished.replace(self.path / "config.yaml")
            for logger in trainer.loggers:
                if isinstance(logger, _Events):
                    logger.lay_out()
        trainer.strategy.barrier()
        if not self.path.is_dir():
            print(
                f"rank {trainer.global_rank} does not see {self.path}: a run can go on only where "
                "all machines share its folder",
                file=sys.stderr,
            )
        if self.path.name != self.name and not self.resumed:
            rank_zero_info(f"{self.root / self.name} is there already")
        rank_zero_info(f"this run is in {self.path}")

    def _free_folder(self) -> Path:
        folder, number = self.root / self.name, 1
        while folder.exists():
            number += 1
            folder = self.root / f"{self.name}-{number}"
        return folder


class _Events(TensorBoardLogger):
    """TensorBoard events only: the configuration lies in the folder already."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def lay_out(self) -> None:
        """Have TensorBoard show together what belongs together."""
        layout = {
            category: {title: ["Multiline", tags] for title, tags in charts.items()}
            for category, charts in _LAYOUT.items()
        }
        self.experiment.add_custom_scalars(layout)

    def save(self) -> None:
        """Bring events to disk, and write no `hparams.yaml`."""
        self.experiment.flush()
