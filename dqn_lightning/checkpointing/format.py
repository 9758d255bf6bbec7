"""Write and read the state of `DQNModule` in checkpoints; define the checkpoint format version."""

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from dqn_lightning.checkpointing.optimizer_settings import check_same_optimizer, describe_optimizer
from dqn_lightning.errors import ConfigError
from dqn_lightning.loggers.running_means import RunningMeans
from dqn_lightning.types import RunProgress

FORMAT_VERSION = 2
"""Version of the layout of checkpoints and state files; increment it with every change."""

KEY = "dqn_lightning"
"""Key under which a checkpoint contains the module's state."""


def module_state(
    progress: RunProgress, means: RunningMeans, optimizers: Sequence[Optimizer]
) -> dict[str, Any]:
    """Return the state of `DQNModule` for a checkpoint, in addition to weights and optimizer state.

    Args:
        progress: Counts of environment steps, episodes and updates so far.
        means: Running means of the training metrics since the last log entry.
        optimizers: List that contains the module's optimizer; empty if it has no optimizer.

    Returns:
        Dict with the format version, the progress, the means, and, if there is an optimizer, its
        class name and settings.
    """
    return {
        "format": FORMAT_VERSION,
        "progress": progress.state_dict(),
        "means": means.state_dict(),
        **describe_optimizer(optimizers),
    }


def read_module_state(checkpoint: dict[str, Any], optimizer: Optimizer | None) -> dict[str, Any]:
    """Return the state of `DQNModule` from a checkpoint.

    A checkpoint written before version 1 of the format can be evaluated, but training cannot resume
    from it.

    Args:
        checkpoint: Content of the checkpoint.
        optimizer: New optimizer of the run that resumes, into which the saved state is loaded to
            check that it fits; None if the weights are only evaluated.

    Returns:
        Dict as returned by `module_state`; before format 1, it contains only progress and means.

    Raises:
        ConfigError: If the format is not supported, or if training cannot resume because the
            checkpoint was written before format 1 or with another optimizer class.
    """
    state = checkpoint.get(KEY)
    if state is None:
        return _read_first_format(checkpoint, optimizer)
    version = state["format"]
    if version > FORMAT_VERSION or (version < FORMAT_VERSION and optimizer is not None):
        raise ConfigError(
            f"--ckpt_path: the checkpoint has format {version}, but this version of dqn_lightning "
            f"resumes from format {FORMAT_VERSION}; install the version that wrote it"
        )
    if optimizer is not None:
        check_same_optimizer(state, optimizer)
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])  # fails now rather than later
    return dict(state)


def _read_first_format(checkpoint: dict[str, Any], optimizer: Optimizer | None) -> dict[str, Any]:
    """Return the state of `DQNModule` from a checkpoint written before version 1 of the format.

    Raises:
        ConfigError: If `optimizer` is given, because training cannot resume from such a checkpoint.
    """
    if optimizer is not None:
        raise ConfigError(
            "--ckpt_path: the checkpoint was written before format 1, so a run cannot resume from "
            "it; its weights can be tested and played"
        )
    env_steps, episodes, grad_steps = checkpoint.get("clock", (0, 0, 0))
    progress = RunProgress(env_steps, episodes, grad_steps=grad_steps)
    return {"progress": progress.state_dict(), "means": RunningMeans().state_dict()}
