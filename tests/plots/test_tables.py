from pathlib import Path

import pytest
import yaml

from dqn_lightning import ConfigError
from dqn_lightning.plots.tables import Run, Series, common_name, grouped, read_run

CONFIG = {
    "seed_everything": 1,
    "run_name": "cartpole",
    "num_threads": 1,
    "trainer": {"devices": 1, "logger": None},
    "data": {"n_step": 1, "seed": None},
}


def make_run(name: str, metrics: str = "env_steps,train/loss\n10,1\n", **changes: object) -> Path:
    folder = Path(name)
    folder.mkdir()
    (folder / "metrics.csv").write_text(metrics)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "run_name": name, **changes}))
    return folder


def lists(series: Series) -> tuple[list[float], list[float]]:
    return series.env_steps.tolist(), series.values.tolist()


def test_a_column_is_read_where_it_was_measured() -> None:
    table = "env_steps,train/loss,train/epsilon,eval/return_mean\n10,,0.5,\n20,3,,\n30,nan,0.25,\n"
    folder = make_run("cartpole", table)
    (folder / "timing.csv").write_text("env_steps,time/elapsed_s\n25,1.5\n")
    run = read_run(folder)
    assert run.name == "cartpole"
    assert {name: lists(series) for name, series in run.series.items()} == {
        "train/loss": ([20], [3]),
        "train/epsilon": ([10, 30], [0.5, 0.25]),
        "time/elapsed_s": ([25], [1.5]),
    }


def test_of_a_run_that_goes_on_half_a_line_is_not_read() -> None:
    folder = make_run("cartpole", "env_steps,train/loss\n10,1\n20,2")  # of 2.75
    (folder / "timing.csv").write_text("")  # nothing of it has been written yet
    assert lists(read_run(folder).series["train/loss"]) == ([10], [1])


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (None, r"there is no metrics\.csv in cartpole; name the folder of a run"),
        ("", r"cartpole/metrics\.csv is empty"),
        ("env_steps,train/loss\n", r"cartpole/metrics\.csv is empty"),
        ("step,loss\n1,2\n", r"is no table of a run \(its first column is 'step'"),
        ("env_steps,train/loss\n1,2\n3\n", r"is no table of a run \(its rows have different"),
        ("env_steps,train/loss\n1,many\n", r"is no table of a run \(could not convert .*'many'"),
        (b"\x89PNG\x0d\x0a\x1a\x0a\x00\xff", r"metrics\.csv is no table of a run"),
    ],
)
def test_what_is_no_run_is_refused(metrics: str | bytes | None, words: str) -> None:
    folder = Path("cartpole")
    folder.mkdir()
    if metrics is not None:
        text = metrics.encode() if isinstance(metrics, str) else metrics
        (folder / "metrics.csv").write_bytes(text)
    with pytest.raises(ConfigError, match=words):
        read_run(folder)


def test_what_is_no_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="plot: nowhere is no folder; name folders of runs"):
        read_run(Path("nowhere"))


@pytest.mark.parametrize("text", ["a: [", "- a list\n"])
def test_a_configuration_that_is_none_is_refused(text: str) -> None:
    folder = make_run("cartpole")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"cartpole/config\.yaml is no configuration"):
        read_run(folder)


def labels(*folders: Path) -> dict[str, list[str]]:
    groups = grouped(map(read_run, folders))
    return {group.label: [run.name for run in group.runs] for group in groups}


def test_runs_that_differ_in_what_does_not_concern_learning_are_one_group() -> None:
    assert labels(
        make_run("cartpole-seed-1"),
        make_run("cartpole-seed-2", seed_everything=2),
        make_run("cartpole-seed-3", num_threads=4, data={"n_step": 1, "seed": 7}),
        make_run("cartpole-seed-4", trainer={"devices": 1, "logger": False}),
        make_run("cartpole-seed-5", checkpoints={"keep_last": 3}),
    ) == {"cartpole": [f"cartpole-seed-{i}" for i in range(1, 6)]}


def test_runs_that_differ_in_anything_else_are_not() -> None:
    assert labels(
        make_run("one-1"),
        make_run("three-1", data={"n_step": 3, "seed": None}),
        make_run("one-2"),
        make_run("ranks", trainer={"devices": 2, "logger": None}),
        make_run("three-2", data={"n_step": 3, "seed": None}),
    ) == {"one": ["one-1", "one-2"], "three": ["three-1", "three-2"], "ranks": ["ranks"]}


def test_a_run_without_a_configuration_is_a_group_of_its_own() -> None:
    folders = [make_run("run-1"), make_run("run-2")]
    for folder in folders:
        (folder / "config.yaml").unlink()
    assert labels(*folders) == {"run-1": ["run-1"], "run-2": ["run-2"]}


def test_groups_whose_names_have_the_same_in_common_are_told_apart() -> None:
    runs = [Run(f"cartpole-{i}", "one" if i < 3 else "three", {}) for i in (1, 2, 3, 4)]
    names = [group.label for group in grouped(runs)]
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
def test_a_group_is_named_after_what_its_runs_have_in_common(names: list[str], label: str) -> None:
    assert common_name(names) == label


def test_a_column_that_one_run_has_not_measured_is_the_groups_neither() -> None:
    both, one = make_run("run-1", "env_steps,a,b\n1,2,3\n"), make_run("run-2", "env_steps,a\n4,5\n")
    (group,) = grouped(map(read_run, (both, one)))
    assert [lists(series) for series in group.measured("a")] == [([1], [2]), ([4], [5])]
    assert group.measured("b") == []
