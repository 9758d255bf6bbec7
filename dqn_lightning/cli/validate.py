"""The command `validate`, which evaluates a checkpoint on the seeds used during training."""

from typing import TYPE_CHECKING

from dqn_lightning.cli.checkpoint import load_weights
from dqn_lightning.cli.summary import print_summary

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI


def validate(cli: "DQNCLI", ckpt_path: str | None = None) -> None:
    """Evaluate on the same seeds as during training, and print the returns.

    Args:
        cli: The command line.
        ckpt_path: Checkpoint to evaluate; if null, use untrained weights (requires `--config`).
    """
    load_weights(cli)
    cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    print_summary(cli)
