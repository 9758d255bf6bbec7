"""Files of a rank's state: what is written, shared and deleted."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dqn_lightning import ConfigError
from dqn_lightning.checkpointing import files, store
from dqn_lightning.checkpointing.store import RankStore, SavedState, state_directory
from dqn_lightning.types import RunProgress

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
    name = rank_store.write({"progress": progress(replay.pending)}, replay)
    write_checkpoint(directory / "last.ckpt", name)
    rank_store.remove_unused([directory / "last.ckpt"])
    return SavedState(directory, "a run", 0, name, "source")


def progress(env_steps: int, run_id: str = "a run") -> dict[str, Any]:
    return RunProgress(env_steps, run_id=run_id).state_dict()


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


@pytest.mark.parametrize("damage", ["deleted", "truncated", "directory deleted"])
def test_a_piece_that_another_program_damages_is_written_again(damage: str, tmp_path: Path) -> None:
    """Issue 22: later checkpoints referred to a deleted file, which was noticed on resume only."""
    rank_store = RankStore(tmp_path)
    path = state_directory(tmp_path, 0) / save(rank_store, tmp_path, FakeReplay(15)).pieces[0].name
    complete = path.read_bytes()
    if damage == "directory deleted":
        shutil.rmtree(path.parent)
    elif damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(complete[:-1])
    with pytest.warns(UserWarning, match=rf"{path.name} was deleted or changed.*written again"):
        saved = save(rank_store, tmp_path, FakeReplay(25))
    assert path.read_bytes() == complete
    assert numbers(saved) == list(range(26))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(rank_store, tmp_path, FakeReplay(27))


def test_the_remaining_rows_of_a_deleted_piece_are_written_again(tmp_path: Path) -> None:
    rank_store = RankStore(tmp_path)
    for pending in (15, 25, 35):
        saved = save(rank_store, tmp_path, FakeReplay(pending))
    (state_directory(tmp_path, 0) / saved.pieces[0].name).unlink()
    with pytest.warns(UserWarning, match="rows-0-10-.* was deleted or changed"):
        saved = save(rank_store, tmp_path, FakeReplay(38))  # rows 0 to 3 are overwritten
    assert piece_ranges(saved)[0] == (4, 10)
    assert numbers(saved) == list(range(4, 39))


FOREIGN = {
    "belongs to another run": {"progress": progress(15, "other run"), "rank": 0},
    "belongs to rank 1, not 0": {"progress": progress(15), "rank": 1},
    "was saved at environment step 14, not 15": {"progress": progress(14), "rank": 0},
}


@pytest.mark.parametrize("reason", FOREIGN)
def test_a_state_file_of_another_run_rank_or_step_is_refused(reason: str, tmp_path: Path) -> None:
    """Even if its name contains the right digest."""
    save(RankStore(tmp_path), tmp_path, FakeReplay(15))
    directory = state_directory(tmp_path, 0)
    name = files.save_with_digest({**FOREIGN[reason], "pieces": []}, directory, "15")
    with pytest.raises(ConfigError, match=rf"^source: .*{name} {reason}$"):
        SavedState(tmp_path, "a run", 0, name, "source")


def test_rows_of_another_run_are_refused(tmp_path: Path) -> None:
    directory = state_directory(tmp_path, 0)
    saved = save(RankStore(tmp_path), tmp_path, FakeReplay(5))
    foreign = {"run_id": "other run", "rows": {}}
    name = files.save_with_digest(foreign, directory, "rows-0-6")
    content = {**saved.content, "pieces": [[0, 6, name]]}
    saved = SavedState(
        tmp_path, "a run", 0, files.save_with_digest(content, directory, "5"), "source"
    )
    with pytest.raises(ConfigError, match=rf"^source: .*{name} belongs to another run$"):
        numbers(saved)


@pytest.mark.parametrize("kind", ["state", "rows"])
def test_a_file_under_the_name_of_another_is_refused(kind: str, tmp_path: Path) -> None:
    """Older state under a newer name, and rows of the same run under the name of other rows."""
    rank_store = RankStore(tmp_path)
    old = save(rank_store, tmp_path, FakeReplay(25))
    store.keep_newest(tmp_path / "last.ckpt", 25, keep_last=2)
    new = save(rank_store, tmp_path, FakeReplay(26))
    directory = state_directory(tmp_path, 0)
    if kind == "state":
        source, target = next(directory.glob("25-*")), next(directory.glob("26-*"))
    else:
        source, target = (directory / saved.pieces[-1].name for saved in (old, new))
    shutil.copyfile(source, target)
    state_file = next(directory.glob("26-*")).name
    with pytest.raises(ConfigError, match=rf"{target.name} is corrupt .*not what was saved under"):
        SavedState(tmp_path, "a run", 0, state_file, "source")


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
