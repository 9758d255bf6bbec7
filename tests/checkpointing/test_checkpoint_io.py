"""Checkpoints that Lightning writes and reads through the plugin of this project."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from dqn_lightning import ConfigError
from dqn_lightning.checkpointing.checkpoint_io import AtomicCheckpointIO, use_atomic_checkpoints
from tests.helpers.settings import make_datamodule
from tests.helpers.states import differences

CONTENT = {"state_dict": {"weight": torch.ones(3)}}


def assert_content(loaded: dict[str, Any]) -> None:
    assert differences(loaded, CONTENT) == []


def test_a_checkpoint_is_written_although_the_temporary_directory_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 22: Lightning writes to $TMPDIR first, which made a run fail when it was full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        TorchCheckpointIO().save_checkpoint(CONTENT, tmp_path / "lightning.ckpt")
    path = tmp_path / "runs" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    assert [path.name for path in path.parent.iterdir()] == ["a.ckpt"]
    assert_content(AtomicCheckpointIO().load_checkpoint(path))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"--ckpt_path: .*a\.ckpt is corrupt or truncated"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_the_content_of_a_checkpoint_is_not_read_again(tmp_path: Path) -> None:
    torch.save({"from": "file"}, tmp_path / "a.ckpt")
    torch.save({"from": "other file"}, tmp_path / "b.ckpt")
    io = AtomicCheckpointIO(tmp_path / "a.ckpt", lambda: {"from": "memory"})
    assert io.load_checkpoint(tmp_path / "a.ckpt") == {"from": "memory"}
    assert io.load_checkpoint(tmp_path / "b.ckpt") == {"from": "other file"}


def test_urls_are_written_and_read_by_lightning() -> None:
    AtomicCheckpointIO().save_checkpoint(CONTENT, "memory://a.ckpt")
    assert_content(AtomicCheckpointIO().load_checkpoint("memory://a.ckpt"))
    assert not list(Path().iterdir())


def test_the_datamodule_installs_the_plugin_but_replaces_none_of_the_user() -> None:
    data = make_datamodule()
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.setup("test")
    assert type(data.trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    data.teardown("test")
    own = AsyncCheckpointIO()
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(checkpoint_io=own))
    use_atomic_checkpoints(trainer)
    assert trainer.strategy.checkpoint_io is own
