"""The evaluation summary that the commands `validate` and `test` print."""

from typing import TYPE_CHECKING

from dqn_lightning.cli.checkpoint import untrained_note
from dqn_lightning.interaction.evaluation import EvaluationResult, describe_cut

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI


def print_summary(cli: "DQNCLI") -> EvaluationResult:
    """Print a summary of the latest evaluation (on rank 0), and return the evaluation's result."""
    summary = cli.model.summary
    assert summary is not None
    cut = describe_cut(summary.episodes_cut_short, cli.datamodule.evaluation.max_steps)
    if cli.trainer.is_global_zero:
        cli.console.print(
            f"{cli.datamodule.env.id}{untrained_note(cli)}: "
            f"return [bold]{summary.return_mean:.1f}[/] ± {summary.return_std:.1f} "
            f"over {summary.episodes} episodes "
            f"(min {summary.return_min:.1f}, max {summary.return_max:.1f})"
            f"{', ' if cut else ''}{cut}",
            highlight=False,
        )
    return summary
