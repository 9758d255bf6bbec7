"""The command line as a user types it; most cases in this process, for speed."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from dqn_lightning import DQNModule
from dqn_lightning.arguments import with_config
from dqn_lightning.cli import main

ROOT = Path(__file__).parents[1]
CARTPOLE = ROOT / "configs" / "cartpole.yaml"
SHORT = [
    "--data.total_env_steps=600",
    "--data.learning_starts_env_steps=100",
    "--data.train_every_env_steps=16",
    "--data.updates_per_train=2",
    "--data.eval_every_env_steps=200",
    "--data.eval_episodes=2",
    "--data.test_episodes=3",
    "--model.network.init_args.widths=[16]",
    "--trainer.log_every_n_steps=10",
]


def fit(*flags: str, config: Path | None = None) -> int:
    arguments = ["fit", *SHORT, *flags]
    if config is not None:
        arguments[1:1] = ["--config", str(config)]
    return main(arguments, default_configs={"fit": CARTPOLE})


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Path:
    assert fit() == 0
    capsys.readouterr()
    return Path("checkpoints/cartpole")


# A run and what comes of it ---------------------------------------------------------------------


def test_a_run_lives_in_one_folder(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert names - events == {
        "best.ckpt",
        "config.yaml",
        "durations.png",
        "last.ckpt",
        "metrics.csv",
        "returns.png",
        "state",
        "timing.csv",
    }
    assert [path.name for path in Path("checkpoints").iterdir()] == ["cartpole"]
    assert [path.name for path in Path().iterdir()] == ["checkpoints"]


def test_tensorboard_shows_together_what_a_run_logs_and_belongs_together(run: Path) -> None:
    events = EventAccumulator(str(run)).Reload()
    tag = "custom_scalars__config__"
    layout = layout_pb2.Layout.FromString(events.Tensors(tag)[0].tensor_proto.string_val[0])
    shown = {tag for c in layout.category for chart in c.chart for tag in chart.multiline.tag}
    logged = set(events.Tags()["scalars"])
    assert [category.title for category in layout.category] == ["Run", "Health", "Time"]
    assert shown - logged == {"health/priority_entropy"}  # drawn uniformly here
    prefixes = {name.split("/")[0] for name in logged}
    assert prefixes == {"train", "eval", "health", "time"}


def test_what_a_run_ends_with_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    output = capsys.readouterr().out
    assert "600 environment steps" in output
    assert re.search(r"best evaluation +[\d.]+ at environment step \d+", output)
    assert "python train.py test --ckpt_path checkpoints/cartpole/best.ckpt" in output


def test_a_second_run_of_the_same_name_gets_a_number(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = everything(run)
    assert fit() == 0
    assert everything(run) == before
    assert Path("checkpoints/cartpole-2/best.ckpt").exists()
    assert "checkpoints/cartpole is there already" in caplog.text
    assert "this run is in checkpoints/cartpole-2" in caplog.text


def test_the_name_is_the_configs_unless_given() -> None:
    config = Path("mine.yaml")
    config.write_text(CARTPOLE.read_text())
    assert fit(config=config) == 0
    assert fit("--run_name=yours", config=config) == 0
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == ["mine", "yours"]


def test_test_needs_nothing_but_the_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(run)
    assert main(["test", "--ckpt_path", str(run / "best.ckpt")]) == 0
    assert re.search(
        r"CartPole-v1: return [\d.]+ ± [\d.]+ over 3 episodes \(least", capsys.readouterr().out
    )
    result = json.loads((run / "test.json").read_text())
    assert list(result) == [
        "env_id",
        "episodes",
        "return_mean",
        "return_std",
        "return_min",
        "return_max",
        "length_mean",
        "env_steps",
        "grad_steps",
        "seed",
    ]
    assert result["episodes"] == 3
    assert result["env_steps"] in (200, 400, 600)
    assert result["grad_steps"] > 0
    (run / "test.json").unlink()
    assert everything(run) == before


def test_validate_and_predict_leave_the_logs_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(run)
    assert main(["validate", "--ckpt_path", str(run / "last.ckpt")]) == 0
    assert "over 2 episodes" in capsys.readouterr().out
    assert everything(run) == before
    np.save("obs.npy", np.zeros((5, 4), np.float32))
    predict = ["predict", "--ckpt_path", str(run / "last.ckpt"), "--data.observations=obs.npy"]
    assert main(predict) == 0
    (prediction,) = torch.load(run / "predictions.pt", weights_only=True)
    assert prediction["action"].shape == (5,)
    assert prediction["q_values"].shape == (5, 2)
    (run / "predictions.pt").unlink()
    assert everything(run) == before


def test_checkpoints_load_without_the_command_line(run: Path) -> None:
    agent = DQNModule.load_from_checkpoint(run / "best.ckpt")
    assert agent.act(torch.zeros(3, 4)).shape == (3,)
    for name in ("best.ckpt", "last.ckpt"):
        torch.load(run / name, weights_only=True)
    best = torch.load(run / "best.ckpt", weights_only=True)
    assert "optimizer_states" not in best


def test_a_finished_run_that_is_gone_on_with_says_where_it_stands(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--ckpt_path", str(run / "last.ckpt")]) == 0
    assert "600 environment steps" in capsys.readouterr().out
    with (run / "timing.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["env_steps"] for row in rows] == ["600"]  # cut back, and written again
    assert not rows[0].get("time/env_steps_per_s")  # for no step was taken


def test_another_name_begins_another_run_from_a_checkpoint(run: Path) -> None:
    before = everything(run)
    again = ["fit", "--ckpt_path", str(run / "last.ckpt"), "--run_name=it's other"]
    assert main([*again, "--data.total_env_steps=800"]) == 0
    assert everything(run) == before
    config = yaml.safe_load(Path("checkpoints/it's other/config.yaml").read_text())
    assert config["run_name"] == "it's other"


def test_callbacks_of_lightning_write_into_the_runs_folder_over_environment_steps() -> None:
    flags = [
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks+=LearningRateMonitor",
        "--trainer.callbacks.logging_interval=step",
        "--data.rollout_env_steps=100",
    ]
    assert fit(*flags) == 0
    assert [path.name for path in Path("checkpoints").iterdir()] == ["cartpole"]
    assert list(Path("checkpoints/cartpole/checkpoints").glob("*.ckpt"))
    with Path("checkpoints/cartpole/metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    monitored = [int(row["env_steps"]) for row in rows if row["lr-Adam"]]
    assert monitored == [99, 199, 299, 399, 499]
    assert {row["train/learning_rate"] for row in rows} == {"", "0.0023"}


def test_last_is_written_at_periods_without_evaluations() -> None:
    saved = []

    class Watch(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            file = Path("checkpoints/cartpole/last.ckpt")
            saved.append(file.stat().st_mtime_ns if file.exists() else 0)

    globals()["Watch"] = Watch
    flags = [
        "--data.eval_every_env_steps=null",
        "--data.rollout_env_steps=100",
        "--checkpoints.every_n_env_steps=250",
        "--trainer.callbacks+=tests.test_cli.Watch",
    ]
    assert fit(*flags) == 0
    written = [i for i in range(1, len(saved)) if saved[i] != saved[i - 1]]
    assert written == [3, 5]  # after the rollouts in which 250 and 500 were passed


def test_a_run_goes_on_in_its_own_folder(run: Path) -> None:
    lines = (run / "metrics.csv").read_text().splitlines()
    again = ["fit", "--ckpt_path", str(run / "last.ckpt"), "--data.total_env_steps=1000"]
    assert main(again) == 0
    assert [path.name for path in Path("checkpoints").iterdir()] == ["cartpole"]
    assert (run / "metrics.csv").read_text().splitlines()[: len(lines)] == lines
    last = torch.load(run / "last.ckpt", weights_only=True)
    assert last["DQNDataModule"]["env_steps"] == 1000
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["total_env_steps"] == 1000  # what the run is made with from here on


def test_the_configuration_that_is_kept_makes_the_same_run(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run_name"] == "cartpole"
    assert config["data"]["total_env_steps"] == 600
    assert "ckpt_path" not in config
    again = ["fit", "--config", str(run / "config.yaml"), "--run_name=again"]
    assert main(again) == 0
    metrics = [(Path("checkpoints", n) / "metrics.csv").read_text() for n in ("cartpole", "again")]
    assert metrics[0] == metrics[1]


def test_fast_dev_run_writes_nothing() -> None:
    assert fit("--trainer.fast_dev_run=true") == 0
    assert not list(Path().iterdir())


def test_settings_can_be_printed_and_help_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ("fit", "validate", "test", "predict", "screen")
    for arguments in (
        *([c, flag] for c in commands for flag in ("--help", "--print_config")),
        ["-h"],
    ):
        with pytest.raises(SystemExit) as info:
            main(arguments, default_configs={"fit": CARTPOLE})
        assert info.value.code == 0
    output = capsys.readouterr().out
    assert "env_id: CartPole-v1" in output
    assert "--data.total_env_steps" in output
    assert "plot RUN [RUN ...] draws what runs have measured" in " ".join(output.split())


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_trains(config: Path) -> None:
    env_id = yaml.safe_load(config.read_text())["data"]["env_id"]
    if env_id not in gym.registry:
        pytest.skip(f"this Gymnasium has no {env_id}")
    if env_id.startswith("LunarLander"):
        pytest.importorskip("Box2D", reason="needs the extra box2d")
    flags = ["--trainer.max_steps=2", "--data.learning_starts_env_steps=200"]
    flags += ["--data.eval_every_env_steps=null"]
    assert main(["fit", "--config", str(config), *flags]) == 0
    assert Path("checkpoints", config.stem, "last.ckpt").exists()


VARIANTS = sorted((ROOT / "configs" / "variants").glob("*.yaml"))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda path: path.stem)
def test_every_variant_of_cartpole_trains_and_goes_on(variant: Path) -> None:
    configs = ["--config", str(CARTPOLE), "--config", str(variant)]
    flags = ["--trainer.max_steps=2", "--data.learning_starts_env_steps=200"]
    assert main(["fit", *configs, *flags]) == 0
    run = Path("checkpoints", f"cartpole_{variant.stem}")
    assert main(["fit", *configs, "--ckpt_path=last", "--trainer.max_steps=4"]) == 0
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4


def test_networks_and_schedules_can_be_chosen_by_flags() -> None:
    network, head = "--model.network.init_args", "--model.head.init_args"
    flags = [
        f"{network}.activation=torch.nn.Tanh",
        f"{network}.initialization=dqn_lightning.networks.Normal",
        f"{network}.initialization.init_args.std=0.001",
        "--model.head=dqn_lightning.networks.ValueHead",
        f"{head}.initialization=dqn_lightning.networks.Orthogonal",
        "--data.epsilon=dqn_lightning.Exponential",
        "--data.epsilon.init_args.start=0.9",
        "--data.epsilon.init_args.end=0.05",
        "--data.epsilon.init_args.steps=200",
        "--data.total_env_steps=200",
        "--model.objective=dqn_lightning.losses.DQN",
        "--model.objective.double=true",
    ]
    assert fit(*flags) == 0
    last = "checkpoints/cartpole/last.ckpt"
    torso = DQNModule.load_from_checkpoint(last).online.torso
    assert isinstance(torso.activation, torch.nn.Tanh)
    weights = torch.load(last, weights_only=True)["state_dict"]
    assert weights["online.torso.layers.0.weight"].std() < 0.1


# Which configuration ----------------------------------------------------------------------------


def test_the_default_config_is_for_a_fit_without_one() -> None:
    default = {"fit": Path("default.yaml")}
    assert with_config(["fit", "--a"], default) == ["fit", "--config", "default.yaml", "--a"]
    for flag in (["--config", "x"], ["--config=x"], ["-c", "x"]):
        assert with_config(["fit", *flag], default) == ["fit", *flag]
        assert with_config(["fit", "--a", "1", *flag], default) == ["fit", *flag, "--a", "1"]
    assert with_config(["--help"], default) == ["--help"]
    assert with_config([], default) == []


def test_last_is_the_newest_checkpoint_of_the_run_that_is_named() -> None:
    defaults = {"fit": Path("configs/default.yaml")}
    for flag in (["--ckpt_path=last"], ["--ckpt_path", "last"]):
        for named, run in (
            ([], "default"),
            (["--run_name=mine"], "mine"),
            (["--config", "configs/other.yaml"], "other"),
            (["--config=configs/other.yaml", "-c", "variants/this.yaml"], "other_this"),
        ):
            path = Path("checkpoints", run, "last.ckpt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            (path.parent / "config.yaml").touch()
            for command in ("fit", "test"):
                found = " ".join(with_config([command, *named, *flag], defaults))
                assert str(path) in found
                assert "last " not in f"{found} "


def test_a_checkpoints_own_config_is_taken_and_flags_win(run: Path) -> None:
    arguments = ["test", f"--ckpt_path={run}/best.ckpt", "--data.test_episodes=1"]
    assert with_config(arguments, {"test": CARTPOLE})[1:3] == ["--config", str(run / "config.yaml")]
    assert main(arguments) == 0
    assert json.loads((run / "test.json").read_text())["episodes"] == 1


# Bad input: a message that names the flag, exit code 2, nothing written --------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.env_id=CartPol-v1"], r"data\.env_id: CartPol-v1 .*nearest: CartPole"),
        (["--data.env_id=Pendulum-v1"], r"data\.env_id: a DQN needs discrete actions"),
        (["--data.env_kwargs.colour=red"], r"data\.env_kwargs: CartPole-v1 does not take"),
        (["--data.env_id=Blackjack-v1"], r"FlattenObservation"),
        (
            [
                "--data.capacity=50",
                "--data.sampler=dqn_lightning.replay.Uniform",
                "--data.sampler.replacement=false",
            ],
            r"data\.batch_size: 64 rows without replacement .* it takes 129",
        ),
        (["--data.capacity=2"], r"data\.capacity: 2 rows .* at least 3"),
        (["--data.capacity=30", "--data.num_envs=8", "--data.n_step=4"], r"at least 48"),
        (
            [
                "--data.capacity=30",
                "--data.n_step=dqn_lightning.Linear",
                "--data.n_step.start=1",
                "--data.n_step.end=40",
                "--data.n_step.steps=500",
            ],
            r"data\.capacity: .* n_step 40 with frame_stack 1 needs 42",
        ),
        (["--data.n_step=0"], r"data\.n_step: must be at least 1, is 0"),
        (["--data.reward_clip=0"], r"data\.reward_clip: must be positive, got 0"),
        (["--data.reward_scale=-1"], r"data\.reward_scale: must be positive, got -1"),
        (
            ["--data.sampler=dqn_lightning.replay.Prioritized", "--data.sampler.alpha=-1"],
            r"data\.sampler\.alpha: must not be negative, got -1",
        ),
        (["--data.train_every_env_steps=0"], r"data\.train_every_env_steps: must be at least 1"),
        (["--data.eval_every_env_steps=-5"], r"data\.eval_every_env_steps: must be at least 1"),
        (["--data.total_env_steps=0"], r"data\.total_env_steps"),
        (["--data.num_envs=0"], r"data\.num_envs: must be at least 1, got 0"),
        (["--data.learning_starts_env_steps=-1"], r"data\.learning_starts_env_steps"),
        (["--target_sync.every_n_env_steps=0"], r"target_sync\.every_n_env_steps: must be at"),
        (["--target_sync.every_n_episodes=5"], r"target_sync: give exactly one"),
        (["--data.epsilon=1.5"], r"data\.epsilon: must lie in \[0, 1\], is 1\.5"),
        (["--data.epsilon.init_args.end=-0.1"], r"data\.epsilon: .* is -0\.\d+ at environment"),
        (["--data.eval_epsilon=2"], r"data\.eval_epsilon"),
        (["--data.gamma=1.1"], r"data\.gamma"),
        (["--gradient_clamp.norm=0"], r"gradient_clamp\.norm: must be positive"),
        (["--num_threads=0"], r"num_threads"),
        (["--trainer.gradient_clip_val=1"], r"trainer\.gradient_clip_val: .* use gradient_clamp"),
        (["--trainer.accumulate_grad_batches=2"], r"use data\.batch_size"),
        (["--trainer.precision=16-mixed"], r"trainer\.precision: 16-mixed .* use bf16-mixed"),
        (["--ckpt_path=nowhere.ckpt"], r"ckpt_path: there is no file nowhere\.ckpt"),
        (["--data.capacit=3"], r"capacit"),
        (["--data.colour=red"], r"colour"),
        (["--data.batch_size=300", "--data.capacity=200"], r"data\.batch_size: 300 is more than"),
        (["--data.epsilon.init_args.steps=0"], r"Linear: steps must be at least 1"),
        (["--data.seed=-1"], r"data\.seed: must not be negative"),
        (["--data.eval_episodes=0"], r"data\.eval_episodes"),
        (["--episode_log.window=0"], r"episode_log\.window: must be at least 1"),
        (["--checkpoints.every_n_minutes=0"], r"checkpoints\.every_n_minutes: must be positive"),
        (["--model.network.init_args.widths=[0]"], r"widths must be at least 1"),
        (["--model.optimizer.init_args.lr=-1"], r"model\.optimizer: .*learning rate"),
        (["--trainer.precision=16"], r"use bf16-mixed"),
        (["--trainer.min_steps=9"], r"trainer\.min_steps: .* use data\.total_env_steps"),
        (["--seed_everything=-1"], r"seed_everything: -1 is not in bounds"),
        (["--data.capacity=1000000000000"], r"data\.capacity: .* 35 TB, do not fit"),
        (["--ckpt_path=."], r"ckpt_path: \. is a folder; name a file in it"),
        (["--run_name=../out"], r"run_name: must be a plain name"),
        (["--model.engine=cudagraph"], r"model\.engine: cudagraph is for cuda, not cpu; use auto"),
        (["--trainer.strategy=ddp_spawn"], r"trainer\.strategy: ddp_spawn is for notebooks"),
    ],
)
def test_bad_input_names_the_flag_and_writes_nothing(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = fit(*flags)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert re.search(words, error), error
    assert "Traceback" not in error
    assert not list(Path().iterdir())


def test_unknown_keys_in_a_config_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    config = Path("mine.yaml")
    config.write_text(CARTPOLE.read_text().replace("capacity:", "capacitance:"))
    with pytest.raises(SystemExit) as info:
        fit(config=config)
    assert info.value.code == 2
    assert "capacitance" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


def test_a_checkpoint_that_is_not_whole_or_of_other_spaces_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (run / "last.ckpt").read_bytes()
    (run / "torn.ckpt").write_bytes(whole[: len(whole) // 2])
    before = everything(run)
    assert main(["fit", "--ckpt_path", str(run / "torn.ckpt")]) == 2
    assert "torn.ckpt is no whole checkpoint" in capsys.readouterr().err
    other = ["test", "--ckpt_path", str(run / "last.ckpt"), "--data.env_id=Acrobot-v1"]
    assert main(other) == 2
    error = capsys.readouterr().err
    assert re.search(r"of another network or environment \(observations \(4,\), 2 actions\)", error)
    assert everything(run) == before
    (run / "config.yaml").unlink()
    assert main(["test", "--ckpt_path", str(run / "last.ckpt")]) == 2
    assert "no config.yaml beside" in capsys.readouterr().err


# Runs that end early ----------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run_with_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit("--model.optimizer.init_args.lr=1e30", "--data.eval_every_env_steps=null") == 1
    assert re.search(r"error: the loss is not finite at update \d+", capsys.readouterr().err)
    assert not Path("checkpoints/cartpole/last.ckpt").exists()


def test_weights_that_are_not_finite_are_never_saved(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.optimizer.init_args.lr=1e38", "--trainer.log_every_n_steps=100000"]
    assert fit(*flags) == 1
    captured = capsys.readouterr()
    assert re.search(r"error: weights are not finite at update \d+, so best.ckpt", captured.err)
    assert "best evaluation" not in captured.out
    assert not list(Path("checkpoints/cartpole").glob("*.ckpt"))


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), "fit", *SHORT, *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


@pytest.mark.parametrize("vectorization", ["single", "async"])
def test_ctrl_c_saves_and_ends_with_130(vectorization: str) -> None:
    process = start(
        "--data.total_env_steps=10000000",
        f"--data.vectorization={vectorization}",
        f"--data.num_envs={1 if vectorization == 'single' else 2}",
    )
    wait_for(Path("checkpoints/cartpole/best.ckpt"), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    last = torch.load("checkpoints/cartpole/last.ckpt", weights_only=True)
    reached = last["DQNDataModule"]["env_steps"]
    assert f"{reached:,} environment steps" in output


def interrupt(process: subprocess.Popen[str], after: str) -> str:
    """Send Ctrl-C once the output says `after`; gives the rest of the output."""
    assert process.stdout is not None
    for line in process.stdout:
        if after in line:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return output


def test_ctrl_c_while_environments_are_made_is_not_lost() -> None:
    process = start("--data.env_id=tests.toy:toy/Slow-v0", "--data.num_envs=2")
    output = interrupt(process, after="replay: ")
    assert process.returncode == 130, output
    last = torch.load("checkpoints/cartpole/last.ckpt", weights_only=True)
    assert last["DQNDataModule"]["env_steps"] == 0


def test_ctrl_c_ends_an_evaluation_that_never_would() -> None:
    flags = ["--data.env_id=tests.toy:toy/Endless-v0", "--data.eval_every_env_steps=10"]
    process = start(*flags)
    wait_for(Path("checkpoints/cartpole/config.yaml"), process)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert Path("checkpoints/cartpole/last.ckpt").exists()
    assert not Path("checkpoints/cartpole/best.ckpt").exists()


def test_an_environment_that_raises_ends_the_run_with_its_traceback() -> None:
    process = start("--data.env_id=tests.toy:toy/Walk-v0", "--data.env_kwargs.fail_at=500")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ZeroDivisionError: the floor gave way" in output
    assert "environment 0 raised ZeroDivisionError" in output
    last = torch.load("checkpoints/cartpole/last.ckpt", weights_only=True)
    assert last["DQNDataModule"]["env_steps"] == 400
