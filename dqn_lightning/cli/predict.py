"""The command `predict`, which writes greedy actions and action values to a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dqn_lightning.cli.checkpoint import load_weights

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI


def predict(cli: "DQNCLI", ckpt_path: str | None = None) -> None:
    """Write greedy actions and action values to `predictions.pt` beside the checkpoint.

    The observations are read from the file `data.observations`. If no file is given, test episodes
    are played, and their observations are used.

    Args:
        cli: The command line.
        ckpt_path: Checkpoint to use; if null, use untrained weights (requires `--config`).
    """
    load_weights(cli)
    predictions: list[Any] = cli.trainer.predict(cli.model, datamodule=cli.datamodule) or []
    directory = Path() if cli.checkpoint is None else cli.checkpoint.path.parent
    file = directory / "predictions.pt"
    torch.save(predictions, file)
    num_actions = sum(len(prediction["action"]) for prediction in predictions)
    cli.console.print(f"{num_actions:,} actions with their values written to {file}")
