"""A run that was stopped and goes on is the same run, bit for bit."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from dqn_lightning import DQNDataModule, DQNModule, files
from dqn_lightning.callbacks import Checkpoints, FullState, TargetSync, full_state
from dqn_lightning.cli import DQNCLI, main

ROOT = Path(__file__).parents[1]
CARTPOLE = ROOT / "configs" / "cartpole.yaml"
WALL_CLOCK = "Timing"


def fit(config: str, name: str, *flags: str) -> None:
    settings = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    file = ROOT / "configs" / f"{config}.yaml"
    assert main(["fit", "--config", str(file), "--run_name", name, *settings, *flags]) == 0


def go_on(name: str, *flags: str, checkpoint: str = "last.ckpt") -> None:
    settings = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "--ckpt_path", f"checkpoints/{name}/{checkpoint}", *settings, *flags]) == 0


def differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Where two nested states differ in any bit."""
    if type(ours) is not type(theirs):
        return [place]
    if isinstance(ours, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [place]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [f"{place}: {ours.keys() ^ theirs.keys()}"]
        return [d for k in ours for d in differences(ours[k], theirs[k], f"{place}/{k}")]
    if isinstance(ours, (list, tuple)):
        if len(ours) != len(theirs):
            return [f"{place}: {len(ours)} and {len(theirs)}"]
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [d for i, pair in pairs for d in differences(*pair, f"{place}/{i}")]
    return [] if ours == theirs else [f"{place}: {ours} and {theirs}"]


def whole_state(name: str) -> dict[str, Any]:
    """Everything a run left behind that does not depend on the wall clock."""
    folder = Path("checkpoints", name)
    last = torch.load(folder / "last.ckpt", weights_only=True)
    callbacks = {k: v for k, v in last["callbacks"].items() if not k.startswith(WALL_CLOCK)}
    (reference,) = last["full_state"]["files"]
    side = torch.load(folder / "state" / "rank-0" / reference, weights_only=True)
    pieces = side.pop("pieces")
    time_now, slots = side["collector"]["replay"]["time"], side["collector"]["replay"]["slots"]
    rows: dict[str, Any] = {}
    for start, stop, file in pieces:
        columns = torch.load(folder / "state" / "rank-0" / file, weights_only=True)
        for number in range(max(start, time_now - slots + 1), stop):
            known = ("obs", "episode_step", "boundary") if number == time_now else columns
            rows[str(number)] = {column: columns[column][number - start] for column in known}
    wanted = ("state_dict", "optimizer_states", "lr_schedulers", "clock", "told", "means")
    best = folder / "best.ckpt"
    return {
        **{key: last[key] for key in wanted},
        "counts": last["DQNDataModule"],
        "callbacks": callbacks,
        "side": side,
        "rows": rows,
        "best": torch.load(best, weights_only=True)["state_dict"] if best.exists() else None,
        "metrics": (folder / "metrics.csv").read_text(),
    }


def assert_same_run(first: str, second: str) -> None:
    ours, theirs = whole_state(first), whole_state(second)
    assert len(ours["rows"]) > 50
    assert ours["clock"][2] > 0
    assert differences(ours, theirs) == []


CARTPOLE_SHORT = (
    "--data.learning_starts_env_steps=200",
    "--data.train_every_env_steps=8",
    "--data.updates_per_train=4",
    "--data.eval_every_env_steps=400",
    "--data.eval_episodes=3",
    "--trainer.log_every_n_steps=7",
)
EVERYTHING_AT_400 = (*CARTPOLE_SHORT, "--checkpoints.every_n_env_steps=400")

CASES = {
    "cartpole, all at once": ("cartpole", EVERYTHING_AT_400, 400),
    "cartpole, nothing at that step": ("cartpole", CARTPOLE_SHORT, 437),
    "cartpole, short rollouts": ("cartpole", (*CARTPOLE_SHORT, "--data.rollout_env_steps=7"), 437),
    "a ring that wraps": ("cartpole", (*CARTPOLE_SHORT, "--data.capacity=300"), 437),
    "n-step, frames, native vector": (
        "cartpole",
        (*CARTPOLE_SHORT, "--data.n_step=5", "--data.num_envs=3", "--data.frame_stack=2"),
        437,
    ),
    "priorities, n that shrinks, frames, a ring that wraps": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            "--data.capacity=300",
            "--data.num_envs=3",
            "--data.frame_stack=2",
            "--data.n_step=dqn_lightning.Linear",
            "--data.n_step.start=5",
            "--data.n_step.end=1",
            "--data.n_step.steps=700",
            "--data.sampler=dqn_lightning.replay.Prioritized",
            "--data.sampler.uniform_share=0.1",
            "--data.sampler.beta=dqn_lightning.Linear",
            "--data.sampler.beta.start=0.4",
            "--data.sampler.beta.end=1.0",
            "--data.sampler.beta.steps=800",
        ),
        437,
    ),
    "rainbow": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            "--data.n_step=3",
            "--data.epsilon=0",
            "--data.sampler=dqn_lightning.replay.Prioritized",
            "--model.objective=dqn_lightning.losses.C51",
            "--model.objective.double=true",
            "--model.objective.v_max=100",
            "--model.dueling=true",
            "--model.noisy=true",
        ),
        437,
    ),
    "quantiles at random, noise, two environments": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            "--data.num_envs=2",
            "--model.objective=dqn_lightning.losses.IQN",
            "--model.noisy=true",
        ),
        437,
    ),
    "quantiles": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            "--model.objective=dqn_lightning.losses.QRDQN",
            "--model.objective.num_quantiles=8",
        ),
        437,
    ),
    "several in turn": (
        "acrobot",
        (*CARTPOLE_SHORT, "--data.num_envs=3", "--data.env_kwargs.max_episode_steps=60"),
        437,
    ),
    "several in processes": (
        "cartpole",
        (*CARTPOLE_SHORT, "--data.num_envs=3", "--data.vectorization=async"),
        437,
    ),
    "episodes that are played again": ("lunarlander", CARTPOLE_SHORT, 437),
    "episodes played again, in processes": (
        "lunarlander",
        (*CARTPOLE_SHORT, "--data.num_envs=2", "--data.vectorization=async"),
        437,
    ),
    "a table": ("taxi", CARTPOLE_SHORT, 437),
    "target by episodes": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            "--target_sync.every_n_env_steps=null",
            "--target_sync.every_n_episodes=3",
        ),
        437,
    ),
    "the PyTorch tutorial": (
        "pytorch_tutorial",
        ("--data.total_episodes=null", "--data.eval_every_env_steps=160", "--data.eval_episodes=2"),
        150,
    ),
    "MorvanZhou's tutorial": (
        "morvan_tutorial",
        ("--data.total_episodes=null", "--data.eval_every_env_steps=2200"),
        2_133,
    ),
    "from the screen": (
        "cartpole_pixels",
        (
            "--data.learning_starts_env_steps=60",
            "--data.eval_every_env_steps=210",
            "--data.eval_episodes=2",
        ),
        230,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_in_two_parts_is_the_run_in_one(case: str) -> None:
    config, flags, half = CASES[case]
    if config == "lunarlander":
        pytest.importorskip("Box2D", reason="needs the extra box2d")
    if config == "taxi" and "Taxi-v4" not in gym.registry:
        pytest.skip("this Gymnasium has no Taxi-v4")
    fit(config, "one", *flags, f"--data.total_env_steps={2 * half}")
    fit(config, "two", *flags, f"--data.total_env_steps={half}")
    go_on("two", f"--data.total_env_steps={2 * half}")
    assert_same_run("one", "two")


def test_a_run_goes_on_with_another_engine_as_the_same_run() -> None:
    """Engines execute the same operations, and what they keep is not saved."""
    fit("cartpole", "one", *CARTPOLE_SHORT, "--data.total_env_steps=900")
    fit("cartpole", "two", *CARTPOLE_SHORT, "--data.total_env_steps=300")
    go_on("two", "--data.total_env_steps=600", "--model.engine=eager")
    go_on("two", "--data.total_env_steps=900", "--model.engine=traced")
    assert_same_run("one", "two")


def test_a_run_in_four_parts_is_the_run_in_one() -> None:
    fit("cartpole", "one", *CARTPOLE_SHORT, "--data.total_env_steps=900")
    fit("cartpole", "four", *CARTPOLE_SHORT, "--data.total_env_steps=250")
    for steps in (251, 800, 900):
        go_on("four", f"--data.total_env_steps={steps}")
    assert_same_run("one", "four")


def test_small_pieces_of_rows_are_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (*CARTPOLE_SHORT, "--data.capacity=300", "--data.num_envs=2")
    fit("cartpole", "one", *flags, "--data.total_env_steps=900")
    monkeypatch.setattr(full_state, "_PIECE_BYTES", 70 * 20)
    often = "--checkpoints.every_n_env_steps=50"
    short = "--data.rollout_env_steps=25"
    fit("cartpole", "two", *flags, often, short, "--data.total_env_steps=450")
    go_on("two", "--data.total_env_steps=900")
    assert_same_run("one", "two")


class StopAt(Callback):
    """Asks the run to stop, as a signal does, when something has been counted so often."""

    def __init__(self, owner: Callable[[Any], Any], name: str, count: int) -> None:
        self.owner, self.name, self.count = owner, name, count

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        owner = self.owner(trainer)
        call = getattr(owner, self.name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.count -= 1
            if self.count == 0:
                trainer.datamodule.stop()
            return call(*args, **kwargs)

        setattr(owner, self.name, counting)


def collector_of(trainer: Any) -> Any:
    return trainer.datamodule.dataset.collector


@pytest.mark.parametrize(
    ("owner", "name", "count"),
    [
        (lambda trainer: collector_of(trainer), "step", 333),
        (lambda trainer: collector_of(trainer).replay, "draw", 61),
        (lambda trainer: collector_of(trainer).replay, "draw", 62),
        (lambda trainer: trainer.lightning_module, "act", 5),
    ],
    ids=["at a step", "at an update", "between updates of one step", "in an evaluation"],
)
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(
    owner: Any, name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = "--data.total_env_steps=900"
    fit("cartpole", "one", *CARTPOLE_SHORT, length)
    with monkeypatch.context() as patch:
        instantiate = DQNCLI.instantiate_trainer

        def with_stop(self: Any, **kwargs: Any) -> Any:
            trainer = instantiate(self, **kwargs)
            trainer.callbacks.insert(0, StopAt(owner, name, count))
            return trainer

        patch.setattr(DQNCLI, "instantiate_trainer", with_stop)
        fit("cartpole", "two", *CARTPOLE_SHORT, length)
    stopped_at = torch.load("checkpoints/two/last.ckpt", weights_only=True)["clock"][0]
    assert 200 < stopped_at <= 400
    go_on("two")
    assert_same_run("one", "two")


def command(*arguments: str) -> list[str]:
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    return [sys.executable, str(ROOT / "train.py"), "fit", *quiet, *arguments]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)]
)
def test_a_signal_ends_a_run_that_goes_on_in_another_process(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    flags = (*CARTPOLE_SHORT, "--data.total_env_steps=4000")
    process = subprocess.Popen(
        command("--run_name=two", *flags), cwd=tmp_path, stderr=subprocess.PIPE
    )
    table = tmp_path / "checkpoints" / "two" / "metrics.csv"
    deadline = time.monotonic() + 60
    while not (table.exists() and table.read_text().count("\n") > 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert b"stopping after this step, then saving" in error
    stopped_at = torch.load(table.parent / "last.ckpt", weights_only=True)["clock"][0]
    assert 0 < stopped_at < 4000
    again = command("--ckpt_path=last", "--run_name=two")
    finished = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert finished.returncode == 0, finished.stderr
    os.chdir(tmp_path)
    fit("cartpole", "one", *flags)
    assert_same_run("one", "two")


def test_a_run_made_in_python_goes_on_too() -> None:
    def train(folder: str, steps: int, checkpoint: str | None = None) -> dict[str, Any]:
        seed_everything(1 if checkpoint is None else 2, verbose=False)
        data = DQNDataModule(
            total_env_steps=steps, learning_starts_env_steps=50, eval_every_env_steps=None
        )
        module = DQNModule(data.obs_shape, data.num_actions)
        Trainer(
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[TargetSync(every_n_grad_steps=50), FullState(), Checkpoints()],
        ).fit(module, datamodule=data, ckpt_path=checkpoint)
        return dict(module.state_dict())

    one = train("one", 300)
    train("two", 170)
    assert differences(one, train("two", 300, "two/last.ckpt")) == []


# What may change, what may not, and what is missing ---------------------------------------------


@pytest.fixture
def run() -> Path:
    fit("cartpole", "run", *CARTPOLE_SHORT, "--data.total_env_steps=450")
    return Path("checkpoints/run")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def learning_rate(run: Path) -> float:
    last = torch.load(run / "last.ckpt", weights_only=True)
    return float(last["optimizer_states"][0]["param_groups"][0]["lr"])


def test_flags_win_over_what_the_checkpoint_remembers(run: Path) -> None:
    assert learning_rate(run) == 0.0023
    go_on("run", "--data.total_env_steps=500")
    assert learning_rate(run) == 0.0023
    go_on("run", "--data.total_env_steps=550", "--model.optimizer.init_args.lr=0.001")
    assert learning_rate(run) == 0.001
    go_on("run", "--data.total_env_steps=600")  # its config.yaml remembers the flag
    assert learning_rate(run) == 0.001


def test_constants_of_the_head_follow_the_flags() -> None:
    objective = "--model.objective=dqn_lightning.losses.IQN"
    fit("cartpole", "one", *CARTPOLE_SHORT, objective, "--data.total_env_steps=300")
    more = "--model.objective.num_acting_fractions=40"
    go_on("one", more, "--data.total_env_steps=400")  # with the 32 of before it could not act


def test_a_changed_learning_rate_keeps_its_place_in_the_schedule() -> None:
    short = (*CARTPOLE_SHORT, "--data.env_kwargs.max_episode_steps=50")
    fit("acrobot", "run", *short, "--data.total_env_steps=400")
    run = Path("checkpoints/run")
    before = learning_rate(run)
    assert 0.99 * 0.00063 < before < 0.00063
    go_on("run", "--data.total_env_steps=408", "--model.optimizer.init_args.lr=0.0063")
    assert 0.99 * 0.0063 < learning_rate(run) < 10 * before


def test_the_length_and_evaluations_may_change(run: Path) -> None:
    go_on("run", "--data.total_env_steps=900", "--data.eval_episodes=2")
    assert torch.load(run / "last.ckpt", weights_only=True)["clock"][0] == 900


def test_a_folder_can_be_moved(run: Path) -> None:
    fit("cartpole", "one", *CARTPOLE_SHORT, "--data.total_env_steps=700")
    Path("elsewhere").mkdir()
    run.rename("elsewhere/two")
    moved = ["--ckpt_path", "elsewhere/two/last.ckpt", "--run_name=two"]
    assert main(["fit", *moved, "--data.total_env_steps=700"]) == 0
    # Under another name than its config's, it is another run, in the folder of all runs.
    ours, theirs = whole_state("one"), whole_state("two")
    for state in (ours, theirs):
        for name in ("metrics", "best", "callbacks"):
            del state[name]
    assert differences(ours, theirs) == []


def test_another_id_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(run)
    assert main(["fit", "--ckpt_path=last", "--run_name=run", "--data.env_id=CartPole-v0"]) == 2
    assert (
        "data.env_id: the run was made with CartPole-v1, not CartPole-v0" in capsys.readouterr().err
    )
    assert everything(run) == before


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (
            "--data.env_kwargs.max_episode_steps=50",
            "data.env_kwargs: the run was made with {}, not",
        ),
        (
            "--model.optimizer=torch.optim.RMSprop",
            "model.optimizer: the run was made with Adam, not",
        ),
    ],
)
def test_another_environment_or_optimiser_is_refused(
    flag: str, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(run)
    longer = ["fit", "--ckpt_path", str(run / "last.ckpt"), "--data.total_env_steps=900"]
    assert main([*longer, flag]) == 2
    assert words in capsys.readouterr().err
    assert everything(run) == before


@pytest.mark.parametrize(("every", "updates"), [(4, 4 * 112), (16, 4 * 28)])
def test_another_rhythm_makes_up_for_nothing_and_waits_for_nothing(
    every: int, updates: int, run: Path
) -> None:
    before = torch.load(run / "last.ckpt", weights_only=True)["clock"][2]
    go_on("run", "--data.total_env_steps=900", f"--data.train_every_env_steps={every}")
    after = torch.load(run / "last.ckpt", weights_only=True)["clock"][2]
    assert after - before == pytest.approx(updates, abs=4)


@pytest.mark.parametrize("flag", ["--data.capacity=5000", "--data.num_envs=2"])
def test_a_replay_of_another_size_is_refused(
    flag: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(run)
    assert main(["fit", "--ckpt_path", str(run / "last.ckpt"), flag]) == 2
    error = capsys.readouterr().err
    assert "data.capacity, data.num_envs: the replay was of another size" in error
    assert "--data.require_replay=false goes on with an empty replay" in error
    assert everything(run) == before


@pytest.mark.parametrize("kind", ["main", "state", "rows"])
@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
def test_a_file_that_is_missing_or_damaged_is_named(
    kind: str,
    damage: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    side = run / "state" / "rank-0"
    path = {"main": run / "last.ckpt", "state": next(side.glob("450-*"))}.get(kind)
    path = path or next(side.glob("rows-*"))
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(whole[:1_000] + bytes([whole[1_000] ^ 1]) + whole[1_001:])
    else:
        path.write_bytes(whole[:-500])
    before = everything(run)
    longer = ["fit", "--ckpt_path", str(run / "last.ckpt"), "--data.total_env_steps=900"]
    assert main(longer) == 2
    error = capsys.readouterr().err
    assert path.name in error
    assert "Traceback" not in error
    assert everything(run) == before
    if kind == "main":
        return
    assert "--data.require_replay=false goes on with an empty replay" in error
    assert main([*longer, "--data.require_replay=false"]) == 0
    assert "going on from environment step 450 with an empty replay" in caplog.text
    assert torch.load(run / "last.ckpt", weights_only=True)["clock"][0] == 900


def test_weights_start_a_new_run(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = everything(run)
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    flags = ["--ckpt_path", str(run / "best.ckpt"), "--data.total_env_steps=150", *quiet]
    with pytest.warns(UserWarning, match="no update will be made"):
        assert main(["fit", *flags]) == 0
    assert "holds weights only: a new run starts from them" in caplog.text
    assert everything(run) == before
    tuned = torch.load("checkpoints/run-2/last.ckpt", weights_only=True)
    best = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    assert differences(dict(tuned["state_dict"]), dict(best)) == []  # it has not learnt yet
    assert tuned["clock"][0] == 150


def test_an_environment_that_cannot_be_repeated_is_cut_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flags = ["--data.env_id=toy/Fickle-v0", *CARTPOLE_SHORT, "--data.eval_every_env_steps=null"]
    fit("cartpole", "run", *flags, "--data.total_env_steps=300")
    go_on("run", "--data.total_env_steps=400")
    assert "running episodes are cut short" in caplog.text
    side = Path("checkpoints/run/state/rank-0")
    rows = torch.load(next(side.glob("rows-*")), weights_only=True)
    assert int(rows["truncated"].sum()) == 1


def test_old_state_goes_with_the_last_checkpoint_that_refers_to_it() -> None:
    flags = (
        "--checkpoints.every_n_env_steps=100",
        "--checkpoints.keep_last=3",
        "--data.rollout_env_steps=50",
    )
    fit("cartpole", "run", *CARTPOLE_SHORT, *flags, "--data.total_env_steps=850")
    run = Path("checkpoints/run")
    kept = sorted(path.name for path in run.glob("env_steps-*.ckpt"))
    assert kept == ["env_steps-700.ckpt", "env_steps-800.ckpt", "env_steps-850.ckpt"]
    states = {
        p.name.split("-")[0] for p in (run / "state" / "rank-0").glob("*") if p.name[0] != "r"
    }
    assert states == {"700", "800", "850"}
    for name in kept:
        go_on("run", "--data.total_env_steps=850", checkpoint=name)
    fit("cartpole", "one", *CARTPOLE_SHORT, *flags, "--data.total_env_steps=850")
    assert_same_run("one", "run")


def test_a_run_folder_that_cannot_be_written_ends_the_run_with_the_file(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(run)

    def full(value: Any, path: Any, **_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(full_state.files.torch, "save", full)
    longer = ["fit", "--ckpt_path", str(run / "last.ckpt"), "--data.total_env_steps=900"]
    assert main([*longer, "--trainer.logger=false"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "cannot be written" in error
    assert str(run / "state" / "rank-0") in error
    after = everything(run)
    for name in ("last.ckpt", "best.ckpt"):
        assert after[str(run / name)] == before[str(run / name)]
    assert {name for name in after if "state" in name} == {n for n in before if "state" in n}


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_run_that_is_killed_fifty_times_is_the_same_run(tmp_path: Path) -> None:
    """With kill -9, at random moments: the newest whole checkpoint goes on exactly."""
    flags = (
        *CARTPOLE_SHORT,
        "--data.capacity=20000",
        "--data.rollout_env_steps=50",
        "--data.eval_every_env_steps=5000",
        "--checkpoints.every_n_env_steps=100",
        "--checkpoints.keep_last=2",
        "--data.total_env_steps=60000",
    )
    fit("cartpole", "one", *flags)
    folder = Path("checkpoints", "two")
    rng = random.Random(0)
    killed, progress = 0, [0]
    while killed < 50:
        begun = (folder / "last.ckpt").exists()
        if not begun and folder.exists():
            shutil.rmtree(folder)
        arguments = ["--ckpt_path=last", "--run_name=two"] if begun else ["--run_name=two", *flags]
        process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL)
        written = (folder / "last.ckpt").stat().st_mtime_ns if begun else 0
        last = folder / "last.ckpt"
        while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns > written):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, f"it was over after {killed} kills; make it longer"
        process.kill()
        process.wait()
        killed += 1
        unfinished = [p for p in folder.rglob(".*") if p.is_file()]
        assert len(unfinished) <= 1, unfinished
        checkpoint = files.load(folder / "last.ckpt", "it")
        progress.append(checkpoint["clock"][0])
        side = folder / "state" / "rank-0"
        state = files.load(side / checkpoint["full_state"]["files"][0], "it")
        for *_, name in state["pieces"]:
            files.load(side / name, "it")
    assert progress == sorted(progress)
    assert progress[-1] > progress[1]
    go_on("two")
    assert not [p for p in folder.rglob(".*") if p.is_file()]
    assert_same_run("one", "two")
