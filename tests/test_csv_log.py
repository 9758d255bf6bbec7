import csv
from pathlib import Path

import pytest

from dqn_lightning.csv_log import CSVLog


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_wall_clock_values_have_a_table_of_their_own(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    log.log_metrics({"train/loss": 0.1, "time/elapsed_s": 3.5}, step=10)
    log.finalize("success")
    assert read(tmp_path / "metrics.csv") == [{"env_steps": "10", "train/loss": "0.1"}]
    assert read(tmp_path / "timing.csv") == [{"env_steps": "10", "time/elapsed_s": "3.5"}]


def test_a_new_column_makes_the_table_wider_and_keeps_its_rows(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.0}, step=1)
    log.log_metrics({"b": 2.5}, step=2)
    log.log_metrics({"a": 3.0, "b": float("inf")}, step=3)
    log.save()
    assert read(tmp_path / "metrics.csv") == [
        {"env_steps": "1", "a": "1", "b": ""},
        {"env_steps": "2", "a": "", "b": "2.5"},
        {"env_steps": "3", "a": "3", "b": "inf"},
    ]
    log.finalize("success")


def test_numbers_come_back_exactly(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    values = [0.1 + 0.2, 1 / 3, 1e-300, 123456789.123]
    for value in values:
        log.log_metrics({"a": value}, step=0)
    log.finalize("success")
    assert [float(row["a"]) for row in read(tmp_path / "metrics.csv")] == values


def test_a_resumed_run_goes_on_in_the_same_table(tmp_path: Path) -> None:
    for step in (1, 2):
        log = CSVLog(tmp_path)
        log.log_metrics({"a": float(step)}, step=step)
        log.finalize("success")
    assert [row["a"] for row in read(tmp_path / "metrics.csv")] == ["1", "2"]


def test_a_resumed_run_begins_where_its_checkpoint_was(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.0, "time/s": 1.0}, step=1)
    state = log.state_dict()
    assert read(tmp_path / "metrics.csv") == [{"env_steps": "1", "a": "1"}]  # it is on disk
    log.log_metrics({"a": 2.0, "b": 3.0, "time/s": 2.0}, step=2)
    log.finalize("failed")
    again = CSVLog(tmp_path)
    again.load_state_dict(state)
    assert read(tmp_path / "metrics.csv") == [{"env_steps": "1", "a": "1"}]
    again.log_metrics({"c": 4.0}, step=2)
    again.finalize("success")
    assert read(tmp_path / "metrics.csv") == [
        {"env_steps": "1", "a": "1", "c": ""},
        {"env_steps": "2", "a": "", "c": "4"},
    ]
    assert len(read(tmp_path / "timing.csv")) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_disk_that_is_full_is_said_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").symlink_to("/dev/full")
    log = CSVLog(tmp_path)
    table = log._tables["metrics"]
    table._file, table._columns = (tmp_path / "metrics.csv").open("a"), ["env_steps", "a"]
    log.log_metrics({"a": 1.0}, step=1)  # it lies in a buffer
    for attempt in (log.save, lambda: log.finalize("failed")):
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.csv"):
            attempt()
