"""Files of a rank's state: what is written, shared and deleted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dqn_lightning.checkpointing import files, store
from dqn_lightning.checkpointing.store import RankStore, SavedState, state_directory

STEPS_PER_PIECE = 10


class FakeReplay:
    """A replay of 35 slots whose only column contains the numbers of the vector steps."""

    step_bytes = 8

    def __init__(self, pending: int, offset: int = 0) -> None:
        self.pending = pending
        self.offset = offset

    @property
    def times(self) -> range:
        return range(max(0, self.pending - 34), self.pending + 1)

    def read(self, times: range) -> dict[str, Tensor]:
        return {"number": torch.tensor(times) + self.offset}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PIECE_BYTES", STEPS_PER_PIECE * FakeReplay.step_bytes)


def save(rank_store: RankStore, directory: Path, replay: FakeReplay) -> SavedState:
    """Save a checkpoint, delete unused files, and load the state again."""
    name = rank_store.write({}, replay, env_steps=replay.pending)
    write_checkpoint(directory / "last.ckpt", name)
    rank_store.remove_unused([directory / "last.ckpt"])
    return SavedState(directory, 0, name, "source")


def write_checkpoint(path: Path, *state_files: str) -> None:
    files.save({store.REFERENCE_KEY: {"files": list(state_files)}}, path)


def numbers(saved: SavedState) -> list[int]:
    """Return the saved rows of the replay, checked against the numbers of their pieces."""
    rows: list[int] = []
    for times, columns in saved.rows():
        assert len(times) == len(columns["number"])
        rows += columns["number"].tolist()
    return rows


def piece_ranges(saved: SavedState) -> list[tuple[int, int]]:
    return [(piece.start, piece.stop) for piece in saved.pieces]


def files_in(directory: Path) -> set[str]:
    return {path.name for path in state_directory(directory, 0).iterdir()}


def test_all_rows_are_saved_and_complete_pieces_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    save_with_digest = files.save_with_digest

    def recorded(value: Any, directory: Path, prefix: str) -> str:
        written.append(prefix)
        return save_with_digest(value, directory, prefix)

    monkeypatch.setattr(files, "save_with_digest", recorded)
    rank_store = RankStore(tmp_path)
    saved = save(rank_store, tmp_path, FakeReplay(15))
    assert piece_ranges(saved) == [(0, 10), (10, 16)]
    assert numbers(saved) == list(range(16))
    saved = save(rank_store, tmp_path, FakeReplay(25))
    assert piece_ranges(saved) == [(0, 10), (10, 20), (20, 26)]
    assert numbers(saved) == list(range(26))
    assert written == ["rows-0-10", "rows-10-16", "15", "rows-10-20", "rows-20-26", "25"]


def test_a_piece_whose_newest_row_may_still_be_truncated_is_not_shared(tmp_path: Path) -> None:
    rank_store = RankStore(tmp_path)
    save(rank_store, tmp_path, FakeReplay(10))  # row 9 is the newest complete row
    saved = save(rank_store, tmp_path, FakeReplay(12, offset=100))
    assert numbers(saved) == list(range(100, 113))


def test_a_full_replay_keeps_the_pieces_that_contain_its_rows(tmp_path: Path) -> None:
    rank_store = RankStore(tmp_path)
    for pending in range(5, 100, 7):
        saved = save(rank_store, tmp_path, FakeReplay(pending))
        rows = numbers(saved)
        assert set(FakeReplay(pending).times) <= set(rows)
        assert rows == list(range(rows[0], pending + 1))
        assert files_in(tmp_path) == {p.name for p in saved.pieces} | {
            path.name for path in state_directory(tmp_path, 0).glob(f"{pending}-*")
        }


def test_a_store_never_shares_the_pieces_of_another_run(tmp_path: Path) -> None:
    """Issue 21: a second fit in the same directory referred to the rows of the first."""
    save(RankStore(tmp_path), tmp_path, FakeReplay(25))
    saved = save(RankStore(tmp_path), tmp_path, FakeReplay(25, offset=1_000))
    assert numbers(saved) == list(range(1_000, 1_026))


def test_a_restored_state_is_shared_in_its_own_directory_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    saved = save(RankStore(tmp_path / "a"), tmp_path / "a", FakeReplay(25))
    resumed = RankStore(tmp_path / "a" / ".." / "a")
    resumed.share_pieces(saved, FakeReplay(25))
    continued = save(resumed, tmp_path / "a", FakeReplay(38, offset=500))
    # Shared pieces keep the rows of the restored state; the others are written again.
    assert numbers(continued) == [*range(20), *range(520, 539)]
    elsewhere = RankStore(tmp_path / "b")
    elsewhere.share_pieces(continued, FakeReplay(38))
    saved = save(elsewhere, tmp_path / "b", FakeReplay(38))
    assert numbers(saved) == list(range(4, 39))


def test_files_of_every_checkpoint_in_the_directory_are_kept(tmp_path: Path) -> None:
    rank_store = RankStore(tmp_path)
    save(rank_store, tmp_path, FakeReplay(15))
    store.keep_newest(tmp_path / "last.ckpt", 15, keep_last=2)
    save(rank_store, tmp_path, FakeReplay(25))
    assert len(list(state_directory(tmp_path, 0).glob("[0-9]*"))) == 2
    store.numbered_checkpoint(tmp_path, 15).unlink()
    rank_store.remove_unused([])
    assert {name.split("-")[0] for name in files_in(tmp_path)} == {"25", "rows"}


def test_nothing_is_deleted_while_a_checkpoint_is_damaged(tmp_path: Path) -> None:
    rank_store = RankStore(tmp_path)
    save(rank_store, tmp_path, FakeReplay(15))
    before = files_in(tmp_path)
    (tmp_path / "other.ckpt").write_bytes(b"damaged")
    save(rank_store, tmp_path, FakeReplay(25))
    assert before < files_in(tmp_path)


def test_a_temporary_checkpoint_does_not_prevent_deletion(tmp_path: Path) -> None:
    rank_store = RankStore(tmp_path)
    save(rank_store, tmp_path, FakeReplay(15))
    files.temporary_path(tmp_path / "best.ckpt").write_bytes(b"being written")
    save(rank_store, tmp_path, FakeReplay(25))
    assert not list(state_directory(tmp_path, 0).glob("15-*"))


def test_only_temporary_files_are_removed_when_a_run_resumes(tmp_path: Path) -> None:
    rank_store = RankStore(tmp_path)
    save(rank_store, tmp_path, FakeReplay(15))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    for path in (tmp_path / "last.ckpt", state_directory(tmp_path, 0) / "25.pt"):
        files.temporary_path(path).write_bytes(b"the beginning")
    rank_store.remove_unfinished()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_newest_numbered_checkpoints_are_kept(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.ckpt")
    # The run then resumes from step 10, so its checkpoint at step 100 is abandoned.
    for env_steps, kept in ((5, {5}), (10, {5, 10}), (100, {10, 100}), (60, {10, 60})):
        store.keep_newest(tmp_path / "last.ckpt", env_steps, keep_last=2)
        paths = {store.numbered_checkpoint(tmp_path, number) for number in kept}
        assert set(tmp_path.glob("env_steps-*")) == paths
