"""The command `fit`, which trains an agent."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch.distributed import DistNetworkError, DistStoreError

from dqn_lightning import distributed
from dqn_lightning.callbacks import Checkpoints, Timing
from dqn_lightning.checkpointing.checkpoint_io import AtomicCheckpointIO
from dqn_lightning.cli.arguments import AUTO
from dqn_lightning.cli.trust import TRUST_FLAG, is_safe
from dqn_lightning.errors import EnvironmentFailure, RankLostError
from dqn_lightning.internals.lightning import is_restoring

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI

_FILES = ("config.yaml", "best.ckpt", "last.ckpt", "metrics.csv", "lengths.png", "returns.png")


def fit(cli: "DQNCLI", ckpt_path: str | None = None) -> None:
    """Train an agent; on Ctrl-C, SIGTERM or SIGUSR1, stop after the current step and save the run.

    Args:
        cli: The command line.
        ckpt_path: Checkpoint to resume from; `last` stands for the run's `last.ckpt`. `auto`
            resumes the run if it has a checkpoint, and otherwise starts it in the same directory. A
            checkpoint that contains only weights initializes a new run; if null, a new run starts
            with random weights.

    Raises:
        ConfigError: If the checkpoint is malformed.
        RankLostError: If another rank's process died or stopped responding.
        ConnectionError: If the ranks cannot connect to each other.
    """
    checkpoint = cli.checkpoint
    if ckpt_path == AUTO:  # the run has no checkpoint
        ckpt_path = None
    if checkpoint is not None and not checkpoint.is_resumable:
        cli.model.load_state_dict(checkpoint.content["state_dict"])
        rank_zero_info(f"{ckpt_path} contains weights only: they initialize a new run")
        ckpt_path = None
    elif checkpoint is not None:
        checkpoint.check_resumable(cli.trainer)
        io = AtomicCheckpointIO(checkpoint.path, checkpoint.current_content)
        cli.trainer.strategy.checkpoint_io = io
    try:
        num_ranks = cli.trainer.world_size
        with cli.stop_on_signal.handle_signals(cli.datamodule.stop, num_ranks):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=ckpt_path)
    except (EnvironmentFailure, OSError):
        raise
    except Exception as error:
        if cli.rank_watch.lost is not None and isinstance(error, RuntimeError):
            raise RankLostError(cli.rank_watch.lost) from error
        if isinstance(error, DistNetworkError | DistStoreError):
            raise ConnectionError(_describe_connection_failure(error)) from error
        if checkpoint is None or not is_restoring(cli.trainer):
            raise
        with checkpoint.reported_as_malformed():
            raise
    _print_result(cli)


def _describe_connection_failure(error: RuntimeError) -> str:
    reason = str(error).partition("\n")[0]
    if "EADDRINUSE" in reason:
        reason = "another process uses the port; choose another MASTER_PORT"
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return f"the ranks cannot connect at {address}: {reason}"


@rank_zero_only
def _print_result(cli: "DQNCLI") -> None:
    """Print a summary of the run, and commands to test and watch the agent."""
    directory = cli.run_directory.path
    if directory is None:
        return
    for name, text in _result(cli, directory).items():
        cli.console.print(f"[bold]{name:<16}[/]{text}", highlight=False)


def _result(cli: "DQNCLI", directory: Path) -> dict[str, str]:
    progress = cli.model.progress
    of_rank = " of rank 0" if distributed.world_size() > 1 else ""
    lines = {
        "reached": f"{progress.env_steps:,} environment steps, {progress.episodes:,} episodes"
        f"{of_rank}, {progress.grad_steps:,} updates"
    }
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]  # untyped there
        if isinstance(callback, Timing):
            lines["time"] = f"{callback.elapsed_s:.1f} s"
        if isinstance(callback, Checkpoints) and callback.best is not None:
            lines["best evaluation"] = (
                f"{callback.best:.1f} at environment step {callback.best_env_steps:,}"
            )
    names = ", ".join(name for name in _FILES if (directory / name).exists())
    lines["files"] = f"{directory}{os.sep}: {names}"
    best = directory / "best.ckpt"
    if best.exists():
        flags = f"--ckpt_path {shlex.quote(str(best))}"
        if not is_safe(directory / "config.yaml"):
            flags += f" {TRUST_FLAG}"
        lines["test it"] = f"python train.py test {flags}"
        lines["watch it"] = f"python train.py play {flags}"
    elif (every := cli.datamodule.evaluation.every_env_steps) is not None:
        lines["no best.ckpt"] = (
            f"no evaluation was completed (data.evaluation.every_env_steps {every:,})"
        )
    return lines
