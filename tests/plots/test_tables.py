from pathlib import Path

import pytest
import yaml

from dqn_lightning import ConfigError
from dqn_lightning.plots.tables import Run, Series, common_name, group_runs, read_run

CONFIG = {
    "seed_everything": 1,
    "run_name": "cartpole",
    "num_threads": 1,
    "trainer": {"devices": 1, "logger": None},
    "data": {"n_step": 1, "seed": None},
}


def make_run(name: str, metrics: str = "env_steps,train/loss\n10,1\n", **changes: object) -> Path:
    directory = Path(name)
    directory.mkdir()
    (directory / "metrics.csv").write_text(metrics)
    (directory / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "run_name": name, **changes}))
    return directory


def as_lists(series: Series) -> tuple[list[float], list[float]]:
    return series.env_steps.tolist(), series.values.tolist()


def test_columns_contain_only_the_rows_with_finite_values() -> None:
    table = "env_steps,train/loss,train/epsilon,eval/return_mean\n10,,0.5,\n20,3,,\n30,nan,0.25,\n"
    directory = make_run("cartpole", table)
    (directory / "timing.csv").write_text("env_steps,time/elapsed_s\n25,1.5\n")
    run = read_run(directory)
    assert run.name == "cartpole"
    assert {name: as_lists(series) for name, series in run.metrics.items()} == {
        "train/loss": ([20], [3]),
        "train/epsilon": ([10, 30], [0.5, 0.25]),
        "time/elapsed_s": ([25], [1.5]),
    }


def test_the_unfinished_last_line_of_a_running_training_is_ignored() -> None:
    directory = make_run("cartpole", "env_steps,train/loss\n10,1\n20,2")  # the start of 2.75
    (directory / "timing.csv").write_text("")  # nothing has been written yet
    assert as_lists(read_run(directory).metrics["train/loss"]) == ([10], [1])


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (None, r"there is no metrics\.csv in cartpole"),
        ("", r"cartpole/metrics\.csv is empty"),
        ("env_steps,train/loss\n", r"cartpole/metrics\.csv is empty"),
        ("step,loss\n1,2\n", r"is not a table .*\(its first column is 'step'"),
        ("env_steps,train/loss\n1,2\n3\n", r"is not a table .*\(its rows have different"),
        ("env_steps,train/loss\n1,many\n", r"is not a table .*\(could not convert .*'many'"),
        (b"\x89PNG\x0d\x0a\x1a\x0a\x00\xff", r"metrics\.csv is not a table"),
    ],
)
def test_invalid_tables_are_rejected(metrics: str | bytes | None, words: str) -> None:
    directory = Path("cartpole")
    directory.mkdir()
    if metrics is not None:
        text = metrics.encode() if isinstance(metrics, str) else metrics
        (directory / "metrics.csv").write_bytes(text)
    with pytest.raises(ConfigError, match=words):
        read_run(directory)


def test_a_path_that_is_not_a_directory_is_rejected() -> None:
    with pytest.raises(ConfigError, match="plot: nowhere is not a directory"):
        read_run(Path("nowhere"))


@pytest.mark.parametrize("text", ["a: [", "- a list\n"])
def test_an_invalid_configuration_is_rejected(text: str) -> None:
    directory = make_run("cartpole")
    (directory / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"cartpole/config\.yaml is not a configuration"):
        read_run(directory)


def labels(*directories: Path) -> dict[str, list[str]]:
    groups = group_runs(map(read_run, directories))
    return {group.label: [run.name for run in group.runs] for group in groups}


def test_runs_that_differ_only_in_ignored_settings_form_one_group() -> None:
    assert labels(
        make_run("cartpole-seed-1"),
        make_run("cartpole-seed-2", seed_everything=2),
        make_run("cartpole-seed-3", num_threads=4, data={"n_step": 1, "seed": 7}),
        make_run("cartpole-seed-4", trainer={"devices": 1, "logger": False}),
        make_run("cartpole-seed-5", checkpoints={"keep_last": 3}),
    ) == {"cartpole": [f"cartpole-seed-{i}" for i in range(1, 6)]}


def test_runs_that_differ_in_other_settings_form_separate_groups() -> None:
    assert labels(
        make_run("one-1"),
        make_run("three-1", data={"n_step": 3, "seed": None}),
        make_run("one-2"),
        make_run("ranks", trainer={"devices": 2, "logger": None}),
        make_run("three-2", data={"n_step": 3, "seed": None}),
    ) == {"one": ["one-1", "one-2"], "three": ["three-1", "three-2"], "ranks": ["ranks"]}


def test_a_run_without_a_configuration_forms_its_own_group() -> None:
    directories = [make_run("run-1"), make_run("run-2")]
    for directory in directories:
        (directory / "config.yaml").unlink()
    assert labels(*directories) == {"run-1": ["run-1"], "run-2": ["run-2"]}


def test_groups_with_equal_common_names_get_different_labels() -> None:
    runs = [Run(f"cartpole-{i}", "one" if i < 3 else "three", {}) for i in (1, 2, 3, 4)]
    names = [group.label for group in group_runs(runs)]
    assert names == ["cartpole-1 … cartpole-2", "cartpole-3 … cartpole-4"]


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["c51-seed-1"], "c51-seed-1"),
        (["c51", "c51-2"], "c51"),
        (["noisy_s0.1-seed-9", "noisy_s0.1-seed-10"], "noisy_s0.1"),
        (["c51_seed1", "c51_seed2"], "c51"),
        (["monday", "tuesday"], "monday … tuesday"),
    ],
)
def test_the_common_name_omits_trailing_numbers_and_seeds(names: list[str], label: str) -> None:
    assert common_name(names) == label


def test_a_group_has_only_the_columns_that_all_of_its_runs_have() -> None:
    both, one = make_run("run-1", "env_steps,a,b\n1,2,3\n"), make_run("run-2", "env_steps,a\n4,5\n")
    (group,) = group_runs(map(read_run, (both, one)))
    assert [as_lists(series) for series in group.series("a")] == [([1], [2]), ([4], [5])]
    assert group.series("b") == []
