import csv
from pathlib import Path

import pytest

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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="requires /dev/full")
def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").symlink_to("/dev/full")
    logger = CSVLogger(tmp_path)
    table = logger._tables["metrics"]
    table._file, table._columns = (tmp_path / "metrics.csv").open("a"), ["env_steps", "a"]
    logger.log_metrics({"a": 1.0}, step=1)  # still buffered
    for attempt in (logger.save, lambda: logger.finalize("failed")):
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.csv"):
            attempt()
