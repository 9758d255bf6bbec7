"""The module's state in a checkpoint, and the format version of checkpoints."""

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from dqn_lightning.checkpointing.optimizer_settings import check_same_optimizer, describe_optimizer
from dqn_lightning.errors import ConfigError
from dqn_lightning.loggers.running_means import RunningMeans
from dqn_lightning.types import RunProgress

FORMAT_VERSION = 1
"""Version of the layout of checkpoints and state files; increment it with every change."""

KEY = "dqn_lightning"
"""Key under which a checkpoint contains the module's state."""


def module_state(
    progress: RunProgress, means: RunningMeans, optimizers: Sequence[Optimizer]
) -> dict[str, Any]:
    """Return the module's state to save: progress, running means and optimizer settings.

    Args:
        progress: Numbers of environment steps, episodes and updates so far.
        means: Running means of training values since the last log entry.
        optimizers: List that contains the module's optimizer; empty if there is none.
    """
    return {
        "format": FORMAT_VERSION,
        "progress": progress.state_dict(),
        "means": means.state_dict(),
        **describe_optimizer(optimizers),
    }


def read_module_state(checkpoint: dict[str, Any], optimizer: Optimizer | None) -> dict[str, Any]:
    """Return the module's state from a checkpoint.

    The weights of a checkpoint written before format 1 can be evaluated, but training cannot resume
    from such a checkpoint.

    Args:
        checkpoint: Content of the checkpoint.
        optimizer: Optimizer of the training run that resumes; None if no training resumes.

    Raises:
        ConfigError: If the format is not supported, or if training cannot resume because the
            checkpoint was written before format 1 or with another optimizer class.
    """
    state = checkpoint.get(KEY)
    if state is None:
        return _read_first_format(checkpoint, optimizer)
    if state["format"] != FORMAT_VERSION:
        raise ConfigError(
            f"--ckpt_path: the checkpoint has format {state['format']}, this version of "
            f"dqn_lightning reads format {FORMAT_VERSION}; install the version that wrote it"
        )
    if optimizer is not None:
        check_same_optimizer(state, optimizer)
    return dict(state)


def _read_first_format(checkpoint: dict[str, Any], optimizer: Optimizer | None) -> dict[str, Any]:
    """Return the module's state from a checkpoint written before format 1."""
    if optimizer is not None:
        raise ConfigError(
            "--ckpt_path: the checkpoint was written before format 1, so a run cannot resume from "
            "it; its weights can be tested and played"
        )
    env_steps, episodes, grad_steps = checkpoint.get("clock", (0, 0, 0))
    progress = RunProgress(env_steps, episodes, grad_steps=grad_steps)
    return {"progress": progress.state_dict(), "means": RunningMeans().state_dict()}
