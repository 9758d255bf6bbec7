"""The command `test`, which evaluates a checkpoint on the test seeds."""

import json
from typing import TYPE_CHECKING

from dqn_lightning.cli.checkpoint import load_weights
from dqn_lightning.cli.summary import print_summary

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI


def test(cli: "DQNCLI", ckpt_path: str | None = None) -> None:
    """Evaluate on the test seeds, print the returns, and write the result to `test.json`.

    The file is written to the checkpoint's directory; without a checkpoint, no file is written.

    Args:
        cli: The command line.
        ckpt_path: Checkpoint to evaluate; if null, use untrained weights (requires `--config`).
    """
    load_weights(cli)
    progress = cli.model.progress
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    summary = print_summary(cli)
    if cli.checkpoint is None or not cli.trainer.is_global_zero:
        return
    result = {
        "env_id": cli.datamodule.env.id,
        **summary._asdict(),
        "env_steps": progress.env_steps,
        "grad_steps": progress.grad_steps,
        "seed": cli.datamodule.evaluation.test_seed,
    }
    file = cli.checkpoint.path.parent / "test.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    cli.console.print(f"written to {file}")
