"""Files that are whole or not there."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dqn_lightning import ConfigError, files

VALUE = {"tensor": torch.arange(1_000), "plain": [1, "two", None, 2**127]}


def test_what_is_saved_is_loaded_and_torch_reads_it_too(tmp_path: Path) -> None:
    name = files.save(VALUE, tmp_path, "a.pt")
    assert name == "a.pt"
    for loaded in (files.load(tmp_path / name, "it"), torch.load(tmp_path / name)):
        assert torch.equal(loaded["tensor"], VALUE["tensor"])
        assert loaded["plain"] == VALUE["plain"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_equal_contents_get_equal_names(tmp_path: Path) -> None:
    names = {files.save(value, tmp_path, "a-{digest}.pt") for value in (VALUE, VALUE, [1])}
    assert len(names) == 2
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_byte_that_changed_anywhere_is_noticed(tmp_path: Path) -> None:
    files.save(VALUE, tmp_path, "a.pt")
    path = tmp_path / "a.pt"
    whole = path.read_bytes()
    places = {*range(0, len(whole), 53), *range(len(whole) - 100, len(whole))}
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"it: .*a\.pt is no whole checkpoint"):
            files.load(path, "it")


def test_a_file_that_is_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    files.save(VALUE, tmp_path, "a.pt")
    path = tmp_path / "a.pt"
    whole = path.read_bytes()
    for length in (0, 1, 21, 22, 66, 86, len(whole) // 2, len(whole) - 65, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"a\.pt is no whole checkpoint"):
            files.load(path, "it")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it: .*none\.pt cannot be read \(No such file"):
        files.load(tmp_path / "none.pt", "it")


def test_files_that_others_wrote_are_loaded_without_a_checksum(tmp_path: Path) -> None:
    torch.save(VALUE, tmp_path / "foreign.pt")
    assert files.load(tmp_path / "foreign.pt", "it")["plain"] == VALUE["plain"]


class Hostile:
    """Runs code when it is unpickled the usual way."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    files.save({"a": Hostile()}, tmp_path, "hostile.pt")
    torch.save(Hostile(), tmp_path / "foreign.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Hostile()))
    for name in ("hostile.pt", "foreign.pt", "pickle.pt"):
        with pytest.raises(ConfigError, match=f"{name} is no whole checkpoint"):
            files.load(tmp_path / name, "it")
    assert not Path("executed").exists()


def test_a_disk_that_is_full_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.save(VALUE, tmp_path, "a.pt")

    def full(value: Any, path: Path) -> None:
        path.write_bytes(b"the beginning")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"a\.pt cannot be written: PytorchStreamWriter failed"):
        files.save(VALUE, tmp_path, "a.pt")
    assert files.load(tmp_path / "a.pt", "it")["plain"] == VALUE["plain"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_leftovers_of_a_run_that_was_killed_are_removed(tmp_path: Path) -> None:
    files.save(VALUE, tmp_path, "a.pt")
    files.temporary(tmp_path, "b.pt").write_bytes(b"the beginning")
    files.temporary(tmp_path, "mine.txt").touch()
    files.remove_unfinished(tmp_path, "*.pt")
    files.temporary(tmp_path, "mine.txt").unlink()  # not ours to remove
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_second_name_outlives_the_first(tmp_path: Path) -> None:
    files.save(VALUE, tmp_path, "a.pt")
    for _ in range(2):  # the second time it takes the place of the first
        files.link(tmp_path / "a.pt", "b.pt")
    (tmp_path / "a.pt").unlink()
    assert files.load(tmp_path / "b.pt", "it")["plain"] == VALUE["plain"]
