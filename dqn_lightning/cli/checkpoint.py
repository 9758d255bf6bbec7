"""The checkpoint of a command: reading it once, checking it, and loading its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from packaging.version import Version

from dqn_lightning.checkpointing import files
from dqn_lightning.cli.arguments import run_name_in
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI


class LoadedCheckpoint:
    """Checkpoint that is read into memory without executing code from the file.

    Args:
        path: Checkpoint file to read.

    Attributes:
        path: Checkpoint file.
        content: Content of the checkpoint, with tensors on the CPU.

    Raises:
        ConfigError: If the file is missing, corrupt or truncated, or is not a checkpoint of a
            LightningModule.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read()

    def _read(self) -> None:
        self._modified_ns = self._last_modified_ns()
        self.content: dict[str, Any] = files.load(self.path, "--ckpt_path")
        weights = self.content.get("state_dict") if isinstance(self.content, dict) else None
        if not isinstance(weights, dict):
            raise ConfigError(f"--ckpt_path: {self.path} is not a checkpoint of a module")

    def _last_modified_ns(self) -> int | None:
        return self.path.stat().st_mtime_ns if self.path.exists() else None

    def current_content(self) -> dict[str, Any]:
        """Return the content, after reading the file again if another process has replaced it.

        Raises:
            ConfigError: If the new file is not a valid checkpoint.
        """
        if self._last_modified_ns() != self._modified_ns:
            self._read()
        return self.content

    @property
    def is_resumable(self) -> bool:
        """Whether a run can resume from the checkpoint; if not, it contains weights only."""
        return "optimizer_states" in self.content

    def run_name(self) -> str | None:
        """Return the run name from the config beside the checkpoint; None without a config."""
        return run_name_in(self.path.parent / "config.yaml")

    @contextmanager
    def reported_as_malformed(self) -> Iterator[None]:
        """Convert errors in the block to a `ConfigError` that names the checkpoint.

        This is for code that fails only if the checkpoint's content has another structure than that
        of a checkpoint written by this project.
        """
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ConfigError(f"--ckpt_path: {self.path} is malformed ({reason})") from error

    def check_resumable(self, trainer: Trainer) -> None:
        """Check what Lightning restores after the run's directory has been created.

        Raises:
            ConfigError: If the checkpoint is malformed.
        """
        with self.reported_as_malformed():
            Version(self.content["pytorch-lightning_version"])
            trainer.fit_loop.load_state_dict(self.content["loops"]["fit_loop"])
            dictionaries = [
                self.content["callbacks"],
                *self.content["optimizer_states"],
                *self.content["lr_schedulers"],
            ]
            for value in dictionaries:
                value.items()

    def load_into(self, module: DQNModule) -> None:
        """Load the weights and the run's progress into a module.

        Raises:
            ConfigError: If the checkpoint's format is not supported, or a weight is not finite.
        """
        with self.reported_as_malformed():
            module.on_load_checkpoint(self.content)
            module.load_state_dict(self.content["state_dict"])
        for name, weights in module.state_dict().items():
            if not torch.isfinite(weights).all():
                raise ConfigError(
                    f"--ckpt_path: {self.path} contains weights that are not finite, in {name}; "
                    "use an earlier checkpoint"
                )

    def check_fits(self, module: DQNModule) -> None:
        """Check that the saved weights have the same names and shapes as a module's weights.

        Raises:
            ConfigError: If they differ, because the checkpoint belongs to another network or to an
                environment with other spaces.
        """
        with self.reported_as_malformed():
            saved = {name: tuple(value.shape) for name, value in self.content["state_dict"].items()}
            spaces = dict(self.content.get("hyper_parameters", {}))
        ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        if saved == ours:
            return
        name = next(n for n in sorted(ours.keys() | saved.keys()) if ours.get(n) != saved.get(n))
        raise ConfigError(
            f"--ckpt_path: {self.path} belongs to another network or environment (observations "
            f"{spaces.get('obs_shape')}, {spaces.get('num_actions')} actions): {name} is "
            f"{ours.get(name, ())} here, {saved.get(name, ())} there"
        )


def load_weights(cli: "DQNCLI") -> None:
    """Load the weights and the run's progress from the checkpoint, if one is given.

    Raises:
        ConfigError: If the checkpoint's format is not supported, or a weight is not finite.
    """
    if cli.checkpoint is not None:
        cli.checkpoint.load_into(cli.model)


def untrained_note(cli: "DQNCLI") -> str:
    """Return ", untrained weights" if no checkpoint is given, else an empty string."""
    return ", untrained weights" if cli.checkpoint is None else ""
