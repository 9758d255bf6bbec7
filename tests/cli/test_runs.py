"""Runs: the files in their directory, the commands that use their checkpoints, and resuming."""

import csv
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from dqn_lightning import DQNModule
from dqn_lightning.cli.main import main
from tests.helpers.commands import CARTPOLE, assert_rejected, fit, read_files

pytestmark = pytest.mark.processes  # runs whole commands


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Path:
    """Return the directory of a finished run."""
    assert fit() == 0
    capsys.readouterr()
    return Path("checkpoints/cartpole")


def names(directory: Path | str) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


# The run directory -------------------------------------------------------------------------------


def test_a_run_writes_into_one_directory(run: Path) -> None:
    files = set(names(run))
    events = {name for name in files if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert files - events == {
        "best.ckpt",
        "config.yaml",
        "lengths.png",
        "last.ckpt",
        "metrics.csv",
        "returns.png",
        "state",
        "timing.csv",
    }
    assert names("checkpoints") == ["cartpole"]
    assert names(".") == ["checkpoints"]


def test_tensorboard_groups_all_metrics_into_charts(run: Path) -> None:
    events = EventAccumulator(str(run)).Reload()
    (layout_event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(layout_event.tensor_proto.string_val[0])
    charted = {tag for c in layout.category for chart in c.chart for tag in chart.multiline.tag}
    logged = set(events.Tags()["scalars"])
    assert [category.title for category in layout.category] == ["Run", "Diagnostics", "Time"]
    assert charted - logged == {"diagnostics/priority_entropy"}  # only of a prioritized replay
    prefixes = {name.split("/")[0] for name in logged}
    assert prefixes == {"train", "eval", "diagnostics", "time"}


def test_fit_prints_its_result_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    output = capsys.readouterr().out
    assert "600 environment steps" in output
    assert re.search(r"best evaluation +[\d.]+ at environment step \d+", output)
    assert "python train.py test --ckpt_path checkpoints/cartpole/best.ckpt" in output


def test_second_run_of_the_same_name_gets_a_number(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_files(run)
    assert fit() == 0
    assert read_files(run) == before
    assert Path("checkpoints/cartpole-2/best.ckpt").exists()
    assert "checkpoints/cartpole-2" in caplog.text


def test_run_is_named_after_its_config_unless_a_name_is_given() -> None:
    config = Path("mine.yaml")
    config.write_text(CARTPOLE.read_text())
    assert fit(config=config) == 0
    assert fit("--run_name=yours", config=config) == 0
    assert names("checkpoints") == ["mine", "yours"]


def test_config_of_a_run_reproduces_it(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run_name"] == "cartpole"
    assert config["data"]["schedule"]["total_env_steps"] == 600
    assert "ckpt_path" not in config
    assert main(["fit", "--config", str(run / "config.yaml"), "--run_name=again"]) == 0
    first, again = (Path("checkpoints", name, "metrics.csv") for name in ("cartpole", "again"))
    assert first.read_text() == again.read_text()


def test_fast_dev_run_writes_nothing() -> None:
    assert fit("--trainer.fast_dev_run=true") == 0
    assert names(".") == []


def test_callbacks_of_lightning_use_the_run_directory_and_environment_steps() -> None:
    flags = [
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks+=LearningRateMonitor",
        "--trainer.callbacks.logging_interval=step",
        "--data.schedule.rollout_env_steps=100",
    ]
    assert fit(*flags) == 0
    assert names("checkpoints") == ["cartpole"]
    assert list(Path("checkpoints/cartpole/checkpoints").glob("*.ckpt"))
    rows = read_rows(Path("checkpoints/cartpole/metrics.csv"))
    monitored = [int(row["env_steps"]) for row in rows if row["lr-Adam"]]
    assert monitored == [99, 199, 299, 399, 499]
    assert {row["train/learning_rate"] for row in rows} == {"", "0.0023"}


class RecordLastCheckpoint(Callback):
    """Record when `last.ckpt` was modified, before each rollout."""

    modified_ns: ClassVar[list[int]] = []

    def on_train_batch_start(self, *args: Any) -> None:
        file = Path("checkpoints/cartpole/last.ckpt")
        self.modified_ns.append(file.stat().st_mtime_ns if file.exists() else 0)


def test_last_checkpoint_is_saved_periodically_without_evaluations() -> None:
    RecordLastCheckpoint.modified_ns.clear()
    flags = [
        "--data.evaluation.every_env_steps=null",
        "--data.schedule.rollout_env_steps=100",
        "--checkpoints.every_n_env_steps=250",
        "--trainer.callbacks+=tests.cli.test_runs.RecordLastCheckpoint",
    ]
    assert fit(*flags) == 0
    times = RecordLastCheckpoint.modified_ns
    saved_before = [i for i in range(1, len(times)) if times[i] != times[i - 1]]
    assert saved_before == [3, 5]  # after the rollouts that reached steps 250 and 500


def test_network_head_and_schedule_can_be_chosen_by_flags() -> None:
    network, head = "--model.network.init_args", "--model.head.init_args"
    flags = [
        f"{network}.activation=torch.nn.Tanh",
        f"{network}.initialization=dqn_lightning.networks.Normal",
        f"{network}.initialization.init_args.std=0.001",
        "--model.head=dqn_lightning.networks.ValueHead",
        f"{head}.initialization=dqn_lightning.networks.Orthogonal",
        "--data.exploration.epsilon=dqn_lightning.Exponential",
        "--data.exploration.epsilon.init_args.start=0.9",
        "--data.exploration.epsilon.init_args.end=0.05",
        "--data.exploration.epsilon.init_args.steps=200",
        "--data.schedule.total_env_steps=200",
        "--model.objective=dqn_lightning.losses.DQN",
        "--model.objective.double=true",
    ]
    assert fit(*flags) == 0
    last = "checkpoints/cartpole/last.ckpt"
    torso = DQNModule.load_from_checkpoint(last).online.torso
    assert isinstance(torso.activation, torch.nn.Tanh)
    weights = torch.load(last, weights_only=True)["state_dict"]
    assert weights["online.torso.layers.0.weight"].std() < 0.1


# Commands that use a checkpoint ------------------------------------------------------------------


def test_test_needs_only_a_checkpoint_and_writes_its_result(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(run)
    assert main(["test", "--ckpt_path", str(run / "best.ckpt")]) == 0
    output = capsys.readouterr().out
    assert re.search(r"CartPole-v1: return [\d.]+ ± [\d.]+ over 3 episodes", output)
    result = json.loads((run / "test.json").read_text())
    assert list(result) == [
        "env_id",
        "episodes",
        "return_mean",
        "return_std",
        "return_min",
        "return_max",
        "length_mean",
        "episodes_cut_short",
        "env_steps",
        "grad_steps",
        "seed",
    ]
    assert result["episodes"] == 3
    assert result["env_steps"] in (200, 400, 600)
    assert result["grad_steps"] > 0
    (run / "test.json").unlink()
    assert read_files(run) == before


def test_episodes_that_are_cut_short_are_reported_as_cut_short(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = "--data.evaluation.max_steps=5"
    assert main(["test", "--ckpt_path", str(run / "best.ckpt"), limit]) == 0
    cut = r"3 cut short after 5 steps \(data\.evaluation\.max_steps\)"
    assert re.search(rf"return 5\.0 ± 0\.0 over 3 episodes .*, {cut}", capsys.readouterr().out)
    assert json.loads((run / "test.json").read_text())["episodes_cut_short"] == 3
    assert main(["predict", "--ckpt_path", str(run / "best.ckpt"), limit]) == 0
    predictions = torch.load(run / "predictions.pt", weights_only=True)
    assert [(len(p["action"]), bool(p["cut_short"])) for p in predictions] == [(5, True)] * 2
    (run / "predictions.pt").unlink()
    assert fit("--data.env.id=CliffWalking-v1", "--run_name=cliff", limit) == 0
    with Path("checkpoints/cliff/metrics.csv").open() as rows:
        cut_short = [row["eval/episodes_cut_short"] for row in csv.DictReader(rows)]
    assert [value for value in cut_short if value] == ["2", "2", "2"]


def test_weights_that_are_not_finite_are_refused_by_all_commands(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(run / "best.ckpt", weights_only=True)
    content["state_dict"]["online.head.values.actions.bias"][1] = float("nan")
    torch.save(content, run / "best.ckpt")
    before = read_files(Path())
    words = r"--ckpt_path: .*best\.ckpt .*not finite, in online\.head\.values\.actions\.bias"
    for command in ("test", "validate", "predict", "play --out=a.gif", "embed", "export"):
        arguments = [*command.split(), "--ckpt_path", str(run / "best.ckpt")]
        assert_rejected(arguments, words, capsys)
    assert read_files(Path()) == before


def test_observations_that_are_malformed_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_nan = torch.tensor([[0, 1, 2, 3], [0, 1, float("nan"), 3]])
    arguments = ["predict", "--ckpt_path", str(run / "best.ckpt"), "--data.observations=obs.pt"]
    for content, words in (
        ({"obs": 1}, "must contain a dense tensor, got dict"),
        (with_nan, "has a value that is not finite in observation 1"),
        (torch.zeros(4), r"has shape \[4\], expected \[number, 4\]"),
    ):
        torch.save(content, "obs.pt")
        before = read_files(Path())
        assert_rejected(arguments, rf"data\.observations: obs\.pt {words}", capsys)
        assert read_files(Path()) == before


def test_flags_take_precedence_over_the_config_of_the_run(run: Path) -> None:
    arguments = ["test", f"--ckpt_path={run}/best.ckpt", "--data.evaluation.test_episodes=1"]
    assert main(arguments) == 0
    assert json.loads((run / "test.json").read_text())["episodes"] == 1


def test_validate_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_files(run)
    assert main(["validate", "--ckpt_path", str(run / "last.ckpt")]) == 0
    assert "over 2 episodes" in capsys.readouterr().out
    assert read_files(run) == before


def test_predict_writes_only_predictions(run: Path) -> None:
    before = read_files(run)
    np.save("obs.npy", np.zeros((5, 4), np.float32))
    last = str(run / "last.ckpt")
    assert main(["predict", "--ckpt_path", last, "--data.observations=obs.npy"]) == 0
    (prediction,) = torch.load(run / "predictions.pt", weights_only=True)
    assert prediction["action"].shape == (5,)
    assert prediction["q_values"].shape == (5, 2)
    (run / "predictions.pt").unlink()
    assert read_files(run) == before


def test_checkpoints_load_in_python_without_executing_code(run: Path) -> None:
    module = DQNModule.load_from_checkpoint(run / "best.ckpt")
    assert module.act(torch.zeros(3, 4)).shape == (3,)
    for name in ("best.ckpt", "last.ckpt"):
        torch.load(run / name, weights_only=True)
    best = torch.load(run / "best.ckpt", weights_only=True)
    assert "optimizer_states" not in best


# Resuming ----------------------------------------------------------------------------------------


def test_run_resumes_in_its_own_directory(run: Path) -> None:
    lines = (run / "metrics.csv").read_text().splitlines()
    last = str(run / "last.ckpt")
    assert main(["fit", "--ckpt_path", last, "--data.schedule.total_env_steps=1000"]) == 0
    assert names("checkpoints") == ["cartpole"]
    assert (run / "metrics.csv").read_text().splitlines()[: len(lines)] == lines
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["dqn_lightning"]["progress"]["env_steps"] == 1000
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["schedule"]["total_env_steps"] == 1000


def test_finished_run_can_be_resumed_without_taking_a_step(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--ckpt_path", str(run / "last.ckpt")]) == 0
    assert "600 environment steps" in capsys.readouterr().out
    (row,) = read_rows(run / "timing.csv")  # rows after the checkpoint were cut, one was appended
    assert row["env_steps"] == "600"
    assert not row.get("time/env_steps_per_s")  # no step was taken


def test_another_name_starts_another_run_from_a_checkpoint(run: Path) -> None:
    before = read_files(run)
    flags = ["--run_name=it's other", "--data.schedule.total_env_steps=800"]
    assert main(["fit", "--ckpt_path", str(run / "last.ckpt"), *flags]) == 0
    assert read_files(run) == before
    config = yaml.safe_load(Path("checkpoints/it's other/config.yaml").read_text())
    assert config["run_name"] == "it's other"


def test_best_checkpoint_initializes_a_new_run(run: Path) -> None:
    before = read_files(run)
    assert main(["fit", "--ckpt_path", str(run / "best.ckpt")]) == 0
    assert names("checkpoints") == ["cartpole", "cartpole-2"]
    assert read_files(run) == before
    first = read_rows(Path("checkpoints/cartpole-2/metrics.csv"))[0]
    assert int(first["env_steps"]) < 200
