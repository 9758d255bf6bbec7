import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dqn_lightning import ConfigError
from dqn_lightning.loggers import CSVLogger


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_wall_clock_metrics_are_written_to_a_separate_table(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.1, "time/elapsed_s": 3.5}, step=10)
    logger.finalize("success")
    assert read(tmp_path / "metrics.csv") == [{"env_steps": "10", "train/loss": "0.1"}]
    assert read(tmp_path / "timing.csv") == [{"env_steps": "10", "time/elapsed_s": "3.5"}]


def test_a_new_metric_adds_a_column_and_keeps_the_rows(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, step=1)
    logger.log_metrics({"b": 2.5}, step=2)
    logger.log_metrics({"a": 3.0, "b": float("inf")}, step=3)
    logger.save()
    assert read(tmp_path / "metrics.csv") == [
        {"env_steps": "1", "a": "1", "b": ""},
        {"env_steps": "2", "a": "", "b": "2.5"},
        {"env_steps": "3", "a": "3", "b": "inf"},
    ]
    logger.finalize("success")


def test_numbers_are_written_without_loss_of_precision(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    values = [0.1 + 0.2, 1 / 3, 1e-300, 123456789.123]
    for value in values:
        logger.log_metrics({"a": value}, step=0)
    logger.finalize("success")
    assert [float(row["a"]) for row in read(tmp_path / "metrics.csv")] == values


def test_a_resumed_run_appends_to_the_same_table(tmp_path: Path) -> None:
    for step in (1, 2):
        logger = CSVLogger(tmp_path)
        logger.log_metrics({"a": float(step)}, step=step)
        logger.finalize("success")
    assert [row["a"] for row in read(tmp_path / "metrics.csv")] == ["1", "2"]


def test_a_resumed_run_removes_rows_and_columns_newer_than_its_checkpoint(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1.0, "time/s": 1.0}, step=1)
    state = logger.state_dict()
    assert read(tmp_path / "metrics.csv") == [{"env_steps": "1", "a": "1"}]  # already on disk
    logger.log_metrics({"a": 2.0, "b": 3.0, "time/s": 2.0}, step=2)
    logger.finalize("failed")
    resumed = CSVLogger(tmp_path)
    resumed.load_state_dict(state)
    assert read(tmp_path / "metrics.csv") == [{"env_steps": "1", "a": "1"}]
    resumed.log_metrics({"c": 4.0}, step=2)
    resumed.finalize("success")
    assert read(tmp_path / "metrics.csv") == [
        {"env_steps": "1", "a": "1", "c": ""},
        {"env_steps": "2", "a": "", "c": "4"},
    ]
    assert len(read(tmp_path / "timing.csv")) == 1


class FakeClock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_rows_can_be_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 22: `plot` and `tail -f` saw nothing of a slow run for minutes."""
    clock, logger = FakeClock(monkeypatch), CSVLogger(tmp_path)
    for step in range(1, 100, 2):
        logger.log_metrics({"a": 1.0}, step=step)
        logger.log_metrics({"a": 2.0, "time/s": 1.0}, step=step + 1)
        assert len(read(tmp_path / "metrics.csv")) == step + 1
        assert len(read(tmp_path / "timing.csv")) == (step + 1) // 2
        clock.now += 0.2
    logger.finalize("success")


def test_many_rows_per_second_are_flushed_twenty_times_per_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, logger = FakeClock(monkeypatch), CSVLogger(tmp_path)
    sizes = set()
    for step in range(10_000):  # in 10 s
        logger.log_metrics({"a": 1.0}, step=step)
        sizes.add((tmp_path / "metrics.csv").stat().st_size)
        assert step < 100 or len(sizes) > (clock.now - 1_000) * 19
        clock.now += 0.001
    assert len(sizes) < 20 + 10 * 20 + 30  # and some when the buffer was full
    logger.save()  # called before every evaluation
    assert len(read(tmp_path / "metrics.csv")) == 10_000
    logger.finalize("success")


def saved_table(directory: Path) -> dict[str, Any]:
    """Log three rows; return the state of the logger after the second."""
    logger = CSVLogger(directory)
    logger.log_metrics({"a": 1.0, "time/s": 0.5}, step=1)
    logger.log_metrics({"a": 2.0}, step=2)
    state = logger.state_dict()
    logger.log_metrics({"b": 3.0}, step=3)
    logger.finalize("failed")
    return state


def test_newer_rows_and_columns_do_not_matter_to_the_check(tmp_path: Path) -> None:
    state = saved_table(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in ("metrics.csv", "timing.csv")]
    CSVLogger(tmp_path).check_state(state)
    resumed = CSVLogger(tmp_path)
    assert before == [(tmp_path / name).read_bytes() for name in ("metrics.csv", "timing.csv")]
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.log_metrics({"a": 3.0}, step=3)
    newer = resumed.state_dict()
    assert newer["metrics"]["digest"] != state["metrics"]["digest"]
    CSVLogger(tmp_path).check_state(newer)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "deleted": (lambda content: None, "cannot be read"),
    "a digit": (lambda content: content.replace(b"1,1", b"1,7"), "does not begin with the rows"),
    "a line": (lambda content: content.replace(b"1,1,\n", b""), "does not begin with the rows"),
    "not text": (lambda content: content.replace(b"1,1", b"1\xff1"), "is corrupt"),
    "empty": (lambda content: b"", "does not begin with the rows"),
    "of another run": (lambda content: b"env_steps,a\n5,5\n6,6\n", "does not begin with the rows"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_refused(damage: str, tmp_path: Path) -> None:
    state = saved_table(tmp_path)
    path = tmp_path / "metrics.csv"
    change, message = DAMAGE[damage]
    content = change(path.read_bytes())
    assert content != path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"metrics\.csv {message}"):
        CSVLogger(tmp_path).check_state(state)
    if damage == "deleted":  # in a new directory, there are no files
        CSVLogger(tmp_path).check_state(state, must_exist=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="requires /dev/full")
def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").symlink_to("/dev/full")
    logger = CSVLogger(tmp_path)
    table = logger._tables["metrics"]
    table._file, table._columns = (tmp_path / "metrics.csv").open("a"), ["env_steps", "a"]
    attempts = (
        lambda: logger.log_metrics({"a": 1.0}, step=1),
        logger.save,
        lambda: logger.finalize("failed"),
    )
    for attempt in attempts:
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.csv"):
            attempt()
