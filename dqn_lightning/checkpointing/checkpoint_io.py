"""Lightning plugin that writes checkpoints atomically, and never executes code from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dqn_lightning.checkpointing import files


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that writes files atomically and checks them for damage on loading.

    A file is written in the directory in which it will be read. Lightning's own plugin first writes
    to the system's temporary directory, which may be full while the run's disk is not, and does not
    sync the file to disk. For URLs, such as `s3://…`, the methods of Lightning's plugin are used.

    Args:
        loaded_path: Path of a checkpoint that was already loaded; None if there is none.
        loaded: Function that returns the content of that checkpoint.
    """

    def __init__(
        self, loaded_path: Path | None = None, loaded: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        super().__init__()
        self._loaded_path = loaded_path
        self._loaded = loaded

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically, and create missing parent directories.

        Raises:
            OSError: If the file cannot be written; an existing file is then kept.
        """
        if _is_url(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        files.make_directory(Path(path).parent)
        files.save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the content of a checkpoint, with tensors on the CPU.

        Raises:
            ConfigError: If the file is missing, corrupt or truncated, or contains anything other
                than tensors and plain values.
        """
        if self._loaded is not None and Path(path) == self._loaded_path:
            return self._loaded()
        if _is_url(path) or kwargs.get("weights_only") is False:
            return dict(super().load_checkpoint(path, *args, **kwargs))
        return dict(files.load(Path(path), "--ckpt_path"))


def use_atomic_checkpoints(trainer: Trainer | None) -> None:
    """Replace the trainer's checkpoint plugin, unless the user has chosen another one."""
    if trainer is not None and type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def _is_url(path: Any) -> bool:
    return "://" in str(path)
