"""Files are either complete or refused, and code in them is never executed."""

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dqn_lightning import ConfigError
from dqn_lightning.checkpointing import files
from tests.helpers.states import differences

VALUE = {"tensor": torch.arange(300, dtype=torch.int16), "plain": [1, "two", None, 2**127]}


def with_records(directory: Path) -> tuple[Path, Callable[[Path, str], Any]]:
    """Return a file whose records are checked, and the function that loads it."""
    files.save(VALUE, directory / "a.pt")
    return directory / "a.pt", files.load


def with_digest(directory: Path) -> tuple[Path, Callable[[Path, str], Any]]:
    """Return a file with a digest in its name, and the function that loads it."""
    return directory / files.save_with_digest(VALUE, directory, "a"), files.load_with_digest


KINDS = pytest.mark.parametrize("make", [with_records, with_digest])


def test_a_saved_value_is_loaded_and_torch_can_read_the_file(tmp_path: Path) -> None:
    files.save(VALUE, tmp_path / "a.pt")
    for loaded in (files.load(tmp_path / "a.pt", "source"), torch.load(tmp_path / "a.pt")):
        assert differences(loaded, VALUE) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_equal_contents_have_equal_names(tmp_path: Path) -> None:
    names = [files.save_with_digest(value, tmp_path, "a") for value in (VALUE, VALUE, [1])]
    assert names[0] == names[1] != names[2]
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert differences(files.load_with_digest(tmp_path / names[0], "source"), VALUE) == []


# Damage -----------------------------------------------------------------------------------------


def flipped_bytes(path: Path) -> Iterator[int]:
    """Invert one byte of a file at a time; yield its position."""
    complete = path.read_bytes()
    for position in range(len(complete)):
        damaged = bytearray(complete)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        yield position
    path.write_bytes(complete)


def test_a_file_with_any_byte_flipped_is_refused_or_has_the_same_content(tmp_path: Path) -> None:
    path, load = with_records(tmp_path)
    refused: dict[int, str] = {}
    for position in flipped_bytes(path):
        try:
            loaded = load(path, "--ckpt_path")
        except ConfigError as error:
            refused[position] = str(error)
        else:  # a byte that does not matter, for example of a record's modification time
            assert differences(loaded, VALUE) == [], position
    payload = path.read_bytes().index(VALUE["tensor"].numpy().tobytes())
    assert refused.keys() >= set(range(payload, payload + 600))
    message = f"--ckpt_path: {path} is corrupt or truncated ("
    assert all(text.startswith(message) for text in refused.values())


def test_a_record_marked_as_a_directory_is_refused(tmp_path: Path) -> None:
    """PyTorch reads nothing for such a record; its tensor would be uninitialized memory."""
    path, load = with_records(tmp_path)
    complete = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.start_dir
    entry = complete.rindex(b"PK\x01\x02", entry, complete.rindex(b"data/0"))
    complete[entry + 38] |= 0x10  # the directory bit of the external attributes
    path.write_bytes(complete)
    with pytest.raises(ConfigError, match=r"corrupt or truncated .*data/0.* directory"):
        load(path, "--ckpt_path")


def test_a_file_with_a_digest_is_refused_if_any_byte_is_flipped(tmp_path: Path) -> None:
    path, load = with_digest(tmp_path)
    for _ in flipped_bytes(path):
        with pytest.raises(ConfigError, match="is corrupt or truncated"):
            load(path, "--ckpt_path")
    assert differences(load(path, "--ckpt_path"), VALUE) == []


@KINDS
def test_a_file_truncated_anywhere_is_refused(make: Any, tmp_path: Path) -> None:
    path, load = make(tmp_path)
    complete = path.read_bytes()
    for length in range(len(complete)):
        path.write_bytes(complete[:length])
        with pytest.raises(ConfigError, match="is corrupt or truncated"):
            load(path, "--ckpt_path")


@KINDS
def test_a_missing_file_is_named(make: Any, tmp_path: Path) -> None:
    path, load = make(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=rf"--ckpt_path: .*{path.name} cannot be read \(No such"):
        load(path, "--ckpt_path")


def test_a_directory_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--ckpt_path: .* cannot be read"):
        files.load(tmp_path, "--ckpt_path")


def test_files_written_by_torch_save_can_be_loaded(tmp_path: Path) -> None:
    torch.save(VALUE, tmp_path / "foreign.pt")
    assert differences(files.load(tmp_path / "foreign.pt", "source"), VALUE) == []


class Hostile:
    """Creates a directory when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    files.save({"a": Hostile()}, tmp_path / "hostile.pt")
    digest_name = files.save_with_digest({"a": Hostile()}, tmp_path, "hostile")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ConfigError, match=r"hostile\.pt contains objects .* could run code"):
        files.load(tmp_path / "hostile.pt", "source")
    with pytest.raises(ConfigError, match=r"pickle\.pt is corrupt or truncated"):
        files.load(tmp_path / "pickle.pt", "source")
    with pytest.raises(ConfigError, match=rf"{digest_name} contains objects .* could run code"):
        files.load_with_digest(tmp_path / digest_name, "source")
    assert not Path("executed").exists()


# Writing ----------------------------------------------------------------------------------------


def test_a_full_disk_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.save(VALUE, tmp_path / "a.pt")

    def write_to_full_disk(path: Path, content: Any) -> None:
        path.write_text("the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    reason = "cannot be written: No space left on device$"
    with pytest.raises(OSError, match=rf"a\.pt {reason}"):
        files.save([1], tmp_path / "a.pt")
    with pytest.raises(OSError, match=rf"b-[0-9a-f]*\.pt {reason}"):
        files.save_with_digest(VALUE, tmp_path, "b")
    assert differences(files.load(tmp_path / "a.pt", "source"), VALUE) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    files.save(VALUE, tmp_path / "a.pt")
    files.temporary_path(tmp_path / "b.pt").write_bytes(b"the beginning")
    files.temporary_path(tmp_path / "other.txt").touch()
    files.remove_unfinished(tmp_path, "*.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", ".tmp-other.txt"}


def test_new_directories_are_synced_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "_sync", synced.append)
    files.make_directory(tmp_path / "state" / "rank-0")
    assert (tmp_path / "state" / "rank-0").is_dir()
    assert synced == [tmp_path / "state", tmp_path]
    files.make_directory(tmp_path / "state" / "rank-0")
    assert len(synced) == 2


@pytest.mark.parametrize("supports_links", [True, False])
def test_a_linked_file_outlives_the_original(
    supports_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("links are not supported")

    if not supports_links:
        monkeypatch.setattr(os, "link", refuse)
    files.save(VALUE, tmp_path / "a.pt")
    for _ in range(2):  # the second link replaces the first
        files.link(tmp_path / "a.pt", "b.pt")
    (tmp_path / "a.pt").unlink()
    assert differences(files.load(tmp_path / "b.pt", "source"), VALUE) == []
    assert [path.name for path in tmp_path.iterdir()] == ["b.pt"]


def test_an_atomic_write_replaces_the_older_file_when_it_is_complete() -> None:
    path = Path("x.png")
    path.write_text("older")
    with files.atomic_write(path) as unfinished:
        unfinished.write_text("newer")
        assert path.read_text() == "older"
        assert unfinished.suffix == ".png"
    assert path.read_text() == "newer"
    assert list(Path().iterdir()) == [path]


def test_a_failed_atomic_write_keeps_the_older_file() -> None:
    def fail(path: Path) -> None:
        with files.atomic_write(path) as unfinished:
            unfinished.write_text("half")
            raise OSError("full")

    Path("x.png").write_text("older")
    with pytest.raises(OSError, match="full"):
        fail(Path("x.png"))
    assert [path.read_text() for path in Path().iterdir()] == ["older"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("x.gif", r"must end in \.html, \.svg or \.png"),
        ("x", r"must end in \.html, \.svg or \.png"),
        ("nowhere/x.png", "cannot be written: .*nowhere"),
        ("directory.png", "cannot be written: it is a directory"),
    ],
)
def test_an_output_file_that_cannot_be_written_is_refused(path: str, reason: str) -> None:
    Path("directory.png").mkdir()
    suffixes = [".html", ".svg", ".png"]
    with pytest.raises(ConfigError, match=f"^--out: {path} {reason}"):
        files.check_output("--out", Path(path), suffixes)
    files.check_output("--out", Path("x.png"), suffixes)
