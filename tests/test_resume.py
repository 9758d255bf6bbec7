"""A run that stops and resumes equals the uninterrupted run, bit for bit."""

import functools
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from dqn_lightning import DQNModule
from dqn_lightning.callbacks import Checkpoints, FullState, TargetSync
from dqn_lightning.checkpointing import files, store
from dqn_lightning.cli.app import DQNCLI
from dqn_lightning.cli.main import main
from tests.helpers.commands import ROOT, read_files
from tests.helpers.processes import command, environment
from tests.helpers.settings import make_datamodule
from tests.helpers.states import (
    CARTPOLE_SHORT,
    assert_same_run,
    differences,
    progress_of,
    read_checkpoint,
    read_rank,
    read_run,
)

pytestmark = pytest.mark.processes  # runs whole commands

QUIET = ("--trainer.logger=false", "--trainer.enable_progress_bar=false")


def length(env_steps: int) -> str:
    return f"--data.schedule.total_env_steps={env_steps}"


def fit(config: str, name: str, *flags: str) -> Path:
    """Train a new run; return its directory."""
    file = ROOT / "configs" / f"{config}.yaml"
    assert main(["fit", "--config", str(file), "--run_name", name, *QUIET, *flags]) == 0
    return Path("checkpoints", name)


def resume(run: Path, *flags: str, checkpoint: str = "last.ckpt") -> None:
    assert main(["fit", "--ckpt_path", str(run / checkpoint), *QUIET, *flags]) == 0


@pytest.fixture(scope="session")
def train_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that trains a run without interruption; equal arguments share one run."""

    @functools.cache
    def train(config: str, *flags: str) -> Path:
        directory = tmp_path_factory.mktemp("uninterrupted")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(directory)
            return directory / fit(config, "run", *flags)

    return train


# The resumed run equals the uninterrupted run ---------------------------------------------------

NARROW = "--model.network.init_args.widths=[32]"
ALL_DUE_AT_400 = (*CARTPOLE_SHORT, "--checkpoints.every_n_env_steps=400")

CASES = {
    "evaluation, save and end at the same step": ("cartpole", ALL_DUE_AT_400, 400),
    "nothing due at the last step": ("cartpole", CARTPOLE_SHORT, 437),
    "short rollouts": (
        "cartpole",
        (*CARTPOLE_SHORT, "--data.schedule.rollout_env_steps=7"),
        437,
    ),
    "full replay": ("cartpole", (*CARTPOLE_SHORT, "--data.replay.capacity=300"), 437),
    "n-step returns, frame stack, native vector environment": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            "--data.replay.n_step=5",
            "--data.env.num_envs=3",
            "--data.replay.frame_stack=2",
        ),
        437,
    ),
    "priorities, scheduled n, frame stack, full replay": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            "--data.replay.capacity=300",
            "--data.env.num_envs=3",
            "--data.replay.frame_stack=2",
            "--data.replay.n_step=dqn_lightning.Linear",
            "--data.replay.n_step.start=5",
            "--data.replay.n_step.end=1",
            "--data.replay.n_step.steps=700",
            "--data.replay.sampler=dqn_lightning.replay.Prioritized",
            "--data.replay.sampler.uniform_share=0.1",
            "--data.replay.sampler.beta=dqn_lightning.Linear",
            "--data.replay.sampler.beta.start=0.4",
            "--data.replay.sampler.beta.end=1.0",
            "--data.replay.sampler.beta.steps=800",
        ),
        437,
    ),
    "rainbow": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            NARROW,
            "--data.replay.n_step=3",
            "--data.exploration.epsilon=0",
            "--data.replay.sampler=dqn_lightning.replay.Prioritized",
            "--model.objective=dqn_lightning.losses.C51",
            "--model.objective.double=true",
            "--model.objective.v_max=100",
            "--model.dueling=true",
            "--model.noisy=true",
        ),
        437,
    ),
    "IQN, noisy layers, two environments": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            NARROW,
            "--data.env.num_envs=2",
            "--model.objective=dqn_lightning.losses.IQN",
            "--model.noisy=true",
        ),
        437,
    ),
    "QR-DQN": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            NARROW,
            "--model.objective=dqn_lightning.losses.QRDQN",
            "--model.objective.num_quantiles=8",
        ),
        437,
    ),
    "synchronous vector environment": (
        "acrobot",
        (*CARTPOLE_SHORT, "--data.env.num_envs=3", "--data.env.kwargs.max_episode_steps=60"),
        437,
    ),
    "asynchronous vector environment": (
        "cartpole",
        (*CARTPOLE_SHORT, "--data.env.num_envs=3", "--data.env.vectorization=async"),
        437,
    ),
    "environment restored by replaying its episode": ("lunarlander", CARTPOLE_SHORT, 437),
    "asynchronous environments restored by replaying": (
        "lunarlander",
        (*CARTPOLE_SHORT, "--data.env.num_envs=2", "--data.env.vectorization=async"),
        437,
    ),
    "table of states": ("taxi", CARTPOLE_SHORT, 437),
    "target sync by episodes": (
        "cartpole",
        (
            *CARTPOLE_SHORT,
            "--target_sync.every_n_env_steps=null",
            "--target_sync.every_n_episodes=3",
        ),
        437,
    ),
    "PyTorch tutorial": (
        "pytorch_tutorial",
        (
            "--data.schedule.total_episodes=null",
            "--data.schedule.learning_starts_env_steps=40",
            "--data.replay.batch_size=32",
            "--data.evaluation.every_env_steps=80",
            "--data.evaluation.episodes=1",
        ),
        75,
    ),
    "MorvanZhou tutorial": (
        "morvan_tutorial",
        ("--data.schedule.total_episodes=null", "--data.evaluation.every_env_steps=2200"),
        2_133,
    ),
    "images": (
        "cartpole_pixels",
        (
            "--data.schedule.learning_starts_env_steps=60",
            "--data.replay.batch_size=16",
            "--data.evaluation.every_env_steps=100",
            "--data.evaluation.episodes=1",
        ),
        110,
    ),
}
STARTS_PROCESSES = {
    "asynchronous vector environment",
    "asynchronous environments restored by replaying",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.processes] if case in STARTS_PROCESSES else [])
        for case in CASES
    ],
)
def test_a_run_in_two_parts_equals_the_uninterrupted_run(
    case: str, train_once: Callable[..., Path]
) -> None:
    config, flags, half = CASES[case]
    if config == "lunarlander":
        pytest.importorskip("Box2D", reason="needs the extra box2d")
    if config == "taxi" and "Taxi-v4" not in gym.registry:
        pytest.skip("this version of Gymnasium has no Taxi-v4")
    two = fit(config, "two", *flags, length(half))
    resume(two, length(2 * half))
    assert_same_run(train_once(config, *flags, length(2 * half)), two)


def test_a_run_resumed_with_other_engines_equals_the_uninterrupted_run(
    train_once: Callable[..., Path],
) -> None:
    two = fit("cartpole", "two", *CARTPOLE_SHORT, length(300))
    resume(two, length(600), "--model.engine=eager")
    resume(two, length(900), "--model.engine=recorded")
    assert_same_run(train_once("cartpole", *CARTPOLE_SHORT, length(900)), two)


def test_a_run_in_four_parts_equals_the_uninterrupted_run(train_once: Callable[..., Path]) -> None:
    four = fit("cartpole", "four", *CARTPOLE_SHORT, length(250))
    for env_steps in (251, 800, 900):
        resume(four, length(env_steps))
    assert_same_run(train_once("cartpole", *CARTPOLE_SHORT, length(900)), four)


def test_a_replay_in_many_small_pieces_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (*CARTPOLE_SHORT, "--data.replay.capacity=300", "--data.env.num_envs=2")
    one = fit("cartpole", "one", *flags, length(900))
    monkeypatch.setattr(store, "PIECE_BYTES", 70 * 20)
    often = ("--checkpoints.every_n_env_steps=50", "--data.schedule.rollout_env_steps=25")
    two = fit("cartpole", "two", *flags, *often, length(450))
    resume(two, length(900))
    assert len(list((two / "state" / "rank-0").glob("rows-*"))) > 3
    assert_same_run(one, two)


class StopAt(Callback):
    """Stop the run, as a signal does, at the n-th call of a method."""

    def __init__(self, owner: Callable[[Any], Any], name: str, count: int) -> None:
        self.owner, self.name, self.count = owner, name, count

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        owner = self.owner(trainer)
        method = getattr(owner, self.name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count -= 1
            if self.count == 0:
                trainer.datamodule.stop()
            return method(*args, **kwargs)

        setattr(owner, self.name, counted)


def collector_of(trainer: Any) -> Any:
    return trainer.datamodule.dataset.collector


@pytest.mark.parametrize(
    ("owner", "name", "count"),
    [
        (lambda trainer: collector_of(trainer), "step", 333),
        (lambda trainer: collector_of(trainer).replay, "sample", 61),
        (lambda trainer: collector_of(trainer).replay, "sample", 62),
        (lambda trainer: trainer.lightning_module, "act", 5),
    ],
    ids=["at a step", "at an update", "between updates of one step", "in an evaluation"],
)
def test_a_run_stopped_anywhere_resumes_as_the_uninterrupted_run(
    owner: Any,
    name: str,
    count: int,
    train_once: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        instantiate = DQNCLI.instantiate_trainer

        def with_stop(self: Any, **kwargs: Any) -> Any:
            trainer = instantiate(self, **kwargs)
            trainer.callbacks.insert(0, StopAt(owner, name, count))
            return trainer

        patch.setattr(DQNCLI, "instantiate_trainer", with_stop)
        two = fit("cartpole", "two", *CARTPOLE_SHORT, length(900))
    assert 200 < progress_of(two)["env_steps"] <= 400
    resume(two)
    assert_same_run(train_once("cartpole", *CARTPOLE_SHORT, length(900)), two)


def fit_command(*arguments: str) -> list[str]:
    return command("fit", *QUIET, *arguments)


@pytest.mark.processes
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)]
)
def test_a_run_stopped_by_a_signal_resumes_in_another_process(
    number: signal.Signals, code: int, train_once: Callable[..., Path]
) -> None:
    flags = (*CARTPOLE_SHORT, NARROW, length(4000))
    process = subprocess.Popen(
        fit_command("--run_name=two", *flags), stderr=subprocess.PIPE, env=environment()
    )
    two = Path("checkpoints", "two")
    table = two / "metrics.csv"
    deadline = time.monotonic() + 60
    while not (table.exists() and table.read_text().count("\n") > 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert b"stopping" in error
    assert 0 < progress_of(two)["env_steps"] < 4000
    finished = subprocess.run(
        fit_command("--ckpt_path=last", "--run_name=two"),
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
    )
    assert finished.returncode == 0, finished.stderr
    assert_same_run(train_once("cartpole", *flags), two)


# In Python --------------------------------------------------------------------------------------


def fit_in_python(
    directory: str,
    env_steps: int,
    *callbacks: Callback,
    seed: int = 1,
    ckpt_path: str | None = None,
    **settings: Any,
) -> DQNModule:
    """Train in Python; a run that resumes is given another seed, which must not matter."""
    seed_everything(seed if ckpt_path is None else seed + 1, verbose=False)
    settings = {"learning_starts_env_steps": 50, "eval_every_env_steps": None, **settings}
    data = make_datamodule(total_env_steps=env_steps, **settings)
    module = DQNModule(data.obs_shape, data.num_actions)
    Trainer(
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TargetSync(every_n_grad_steps=50), *(callbacks or (FullState(), Checkpoints()))],
    ).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


def state_of(directory: str) -> dict[str, Any]:
    """Return the state of rank 0 in `last.ckpt`, with the rows of its replay."""
    (name,) = read_checkpoint(directory)["full_state"]["files"]
    return read_rank(Path(directory, "state", "rank-0"), name)


def test_a_run_in_python_resumes_as_the_uninterrupted_run() -> None:
    one = fit_in_python("one", 300)
    fit_in_python("two", 170)
    two = fit_in_python("two", 300, ckpt_path="two/last.ckpt")
    assert differences(dict(one.state_dict()), dict(two.state_dict())) == []


def test_a_run_keeps_its_random_identifier_and_other_runs_have_others() -> None:
    for directory in ("one", "two"):
        fit_in_python(directory, 100)
    ids = [progress_of(directory)["run_id"] for directory in ("one", "two")]
    assert ids[0] != ids[1]
    fit_in_python("two", 200, ckpt_path="two/last.ckpt")
    assert progress_of("two")["run_id"] == ids[1]
    assert len(ids[0]) == 16


def test_a_run_does_not_use_the_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 22: a full $TMPDIR made a run fail."""
    monkeypatch.setattr(tempfile, "tempdir", "/does/not/exist")
    fit_in_python("run", 100, eval_every_env_steps=50, eval_episodes=1)
    assert {path.name for path in Path("run").iterdir()} == {"best.ckpt", "last.ckpt", "state"}


def test_a_second_fit_with_the_same_callbacks_saves_only_its_own_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Issue 21: the checkpoint of the second fit referred to the rows of the first fit."""
    monkeypatch.setattr(store, "PIECE_BYTES", 4096)
    callbacks = (FullState(), Checkpoints(every_n_env_steps=50))
    fit_in_python("run", 400, *callbacks, seed=1)
    first = state_of("run")
    fit_in_python("run", 400, *callbacks, seed=3)
    second = state_of("run")
    fit_in_python("fresh", 400, seed=3)
    assert differences(second, state_of("fresh")) == []
    known = set(map(tuple, first["rows"]["obs"].flatten(0, 1).tolist()))
    foreign = [obs in known for obs in map(tuple, second["rows"]["obs"].flatten(0, 1).tolist())]
    assert len(foreign) > 400
    assert not any(foreign)
    # Resuming with the same callbacks again equals resuming in a new process.
    resumed = fit_in_python("run", 600, *callbacks, ckpt_path="run/last.ckpt")
    fresh = fit_in_python("fresh", 600, seed=3, ckpt_path="fresh/last.ckpt")
    assert differences(dict(resumed.state_dict()), dict(fresh.state_dict())) == []
    assert differences(state_of("run"), state_of("fresh")) == []


def test_the_best_score_of_a_fit_does_not_survive_into_the_next() -> None:
    """Issue 21: a second fit compared its evaluations with the best score of the first."""
    checkpoints = Checkpoints()
    evaluations = {"eval_every_env_steps": 100, "eval_episodes": 1}
    fit_in_python("run", 200, FullState(), checkpoints, **evaluations)
    checkpoints.best = 1_000.0
    best = Path("run", "best.ckpt")
    before = best.read_bytes()
    fit_in_python("run", 200, FullState(), checkpoints, seed=3, **evaluations)
    assert 0 < checkpoints.best <= 500
    assert best.read_bytes() != before


def test_a_run_resumed_into_another_directory_saves_all_its_rows_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "PIECE_BYTES", 4096)
    for directory in ("one", "two"):
        Path(directory).mkdir()
    fit_in_python("one", 200)
    fit_in_python("two", 300, ckpt_path="one/last.ckpt")
    fit_in_python("one", 300)
    assert differences(state_of("one"), state_of("two")) == []


def test_a_run_resumed_by_an_absolute_path_shares_the_pieces_in_its_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "PIECE_BYTES", 4096)
    fit_in_python("run", 300)
    pieces = {path: path.stat().st_mtime_ns for path in Path("run").rglob("rows-*")}
    fit_in_python("run", 400, ckpt_path=str(Path("run/last.ckpt").resolve()))
    unchanged = [path for path, written in pieces.items() if mtime(path) == written]
    assert len(unchanged) == len(pieces) - 1 > 1  # the newest piece has grown


def mtime(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


# What may change, what must not, and what is missing --------------------------------------------


@pytest.fixture
def run(train_once: Callable[..., Path]) -> Path:
    """A run of 450 environment steps, in the directory of this test."""
    run = Path("checkpoints", "run")
    shutil.copytree(train_once("cartpole", *CARTPOLE_SHORT, length(450)), run)
    return run


def learning_rate(run: Path) -> float:
    return float(read_checkpoint(run)["optimizer_states"][0]["param_groups"][0]["lr"])


def assert_refused(
    run: Path, capsys: pytest.CaptureFixture[str], *words: str, flags: tuple[str, ...] = ()
) -> None:
    """Resuming must fail with one sentence that contains the words, and must change no file."""
    before = read_files(run)
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", str(run / "last.ckpt"), length(900), *flags]) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert "Traceback" not in error
    assert read_files(run) == before


def test_flags_override_the_settings_of_the_checkpoint(run: Path) -> None:
    assert learning_rate(run) == 0.0023
    resume(run, length(500))
    assert learning_rate(run) == 0.0023
    resume(run, length(550), "--model.optimizer.init_args.lr=0.001")
    assert learning_rate(run) == 0.001
    resume(run, length(600))  # the changed flag is stored in config.yaml
    assert learning_rate(run) == 0.001


def test_the_number_of_acting_taus_may_change() -> None:
    objective = "--model.objective=dqn_lightning.losses.IQN"
    run = fit("cartpole", "run", *CARTPOLE_SHORT, objective, length(300))
    resume(run, "--model.objective.num_acting_taus=40", length(400))
    assert progress_of(run)["env_steps"] == 400


def test_a_changed_learning_rate_keeps_its_place_in_the_schedule() -> None:
    short = (*CARTPOLE_SHORT, "--data.env.kwargs.max_episode_steps=50")
    run = fit("acrobot", "run", *short, length(400))
    before = learning_rate(run)
    assert 0.99 * 0.00063 < before < 0.00063
    resume(run, length(408), "--model.optimizer.init_args.lr=0.0063")
    assert 0.99 * 0.0063 < learning_rate(run) < 10 * before


def test_the_length_of_the_run_and_its_evaluations_may_change(run: Path) -> None:
    resume(run, length(500), "--data.evaluation.episodes=2")
    assert progress_of(run)["env_steps"] == 500


def test_a_run_directory_can_be_moved(run: Path, train_once: Callable[..., Path]) -> None:
    Path("elsewhere").mkdir()
    run.rename("elsewhere/two")
    moved = ["--ckpt_path", "elsewhere/two/last.ckpt", "--run_name=two"]
    assert main(["fit", *moved, *QUIET, length(700)]) == 0
    # Its name differs from the one in its config, so it resumes as a new run in `checkpoints/`.
    one = train_once("cartpole", *CARTPOLE_SHORT, length(700))
    ours, theirs = read_run(one), read_run("checkpoints/two")
    for state in (ours, theirs):
        for name in ("metrics", "best", "callbacks"):
            del state[name]
    assert differences(ours, theirs) == []


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--data.env.id=CartPole-v0", ("data.env.id", "CartPole-v1", "CartPole-v0")),
        ("--data.env.kwargs.max_episode_steps=50", ("data.env.kwargs", "{}", "50")),
        ("--model.optimizer=torch.optim.RMSprop", ("model.optimizer", "Adam", "RMSprop")),
        ("--data.replay.capacity=5000", ("data.replay.capacity", "size", "require_replay=false")),
        ("--data.env.num_envs=2", ("data.env.num_envs", "size", "require_replay=false")),
    ],
)
def test_another_environment_optimizer_or_replay_size_is_refused(
    flag: str, words: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(run, capsys, *words, flags=(flag,))


@pytest.mark.parametrize(("every", "updates"), [(4, 4 * 112), (16, 4 * 28)])
def test_a_changed_update_period_neither_catches_up_nor_waits(
    every: int, updates: int, run: Path
) -> None:
    before = progress_of(run)["grad_steps"]
    resume(run, length(900), f"--data.schedule.train_every_env_steps={every}")
    assert progress_of(run)["grad_steps"] - before == pytest.approx(updates, abs=4)


@pytest.mark.parametrize("kind", ["main", "state", "rows"])
@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated"])
def test_a_missing_or_damaged_file_is_named(
    kind: str,
    damage: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = run / "state" / "rank-0"
    pattern = {"main": "../../last.ckpt", "state": "450-*", "rows": "rows-*"}[kind]
    path = next(directory.glob(pattern)).resolve()
    complete = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(complete[:1_000] + bytes([complete[1_000] ^ 1]) + complete[1_001:])
    else:
        path.write_bytes(complete[:-500])
    if kind == "main":
        assert_refused(run, capsys, "--ckpt_path", path.name)
        return
    assert_refused(run, capsys, path.name, "--data.resume.require_replay=false")
    resume(run, length(500), "--data.resume.require_replay=false")
    assert "environment step 450 with an empty replay" in caplog.text
    assert progress_of(run)["env_steps"] == 500


def change_state(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the content of the state file of `last.ckpt`, and let the checkpoint refer to it."""
    directory, last = run / "state" / "rank-0", read_checkpoint(run)
    (name,) = last["full_state"]["files"]
    content = files.load_with_digest(directory / name, "source")
    change(content)
    last["full_state"]["files"] = [files.save_with_digest(content, directory, "450")]
    files.save(last, run / "last.ckpt")


@pytest.mark.parametrize("name", ["best.ckpt", "metrics.csv", "timing.csv"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_missing_or_changed_result_is_named(
    name: str, damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / name
    content = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(content[: len(content) // 2])
    assert_refused(run, capsys, "--ckpt_path", str(path), "; --run_name=NAME resumes without it")
    resume(run, length(500), "--run_name=other")
    assert progress_of("checkpoints/other")["env_steps"] == 500


def test_rows_beyond_the_pending_row_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 21: rows of another run were loaded although they were newer than the replay."""

    def shorten(state: dict[str, Any]) -> None:
        state["collector"]["replay"]["time"] -= 10

    change_state(run, shorten)
    assert_refused(run, capsys, "--ckpt_path", "another run")


def test_missing_rows_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def remove(state: dict[str, Any]) -> None:
        start, stop, name = state["pieces"][0]
        state["pieces"] = [[start, 100, name], [110, stop, name]]

    change_state(run, remove)
    assert_refused(run, capsys, "--ckpt_path", "missing")


def test_a_state_file_of_another_format_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_state(run, lambda state: state.update(format=3))
    assert_refused(run, capsys, "--ckpt_path", "format 3", "format 2")


MALFORMED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "no state of the module": (("state_dict",), [1]),
    "another version": (("pytorch-lightning_version",), 7),
    "no loops": (("loops",), None),
    "no callbacks": (("callbacks",), None),
    "no states of callbacks": (("callbacks",), {"Checkpoints": 3}),
    "no optimizer": (("optimizer_states",), [{}]),
    "no progress": (("dqn_lightning", "progress"), {}),
    "a tensor as progress": (("dqn_lightning", "progress"), torch.zeros(2)),
    "no format": (("dqn_lightning",), {}),
    "no names of state files": (("full_state",), {"tables": []}),
    "a number of state files": (("full_state", "files"), 7),
    "no tables": (("full_state", "tables"), torch.zeros(2)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_checkpoint_is_refused_and_leaves_nothing_behind(
    case: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 22: these ended with a traceback, and with a new run directory."""
    last = read_checkpoint(run)
    (*keys, key), value = MALFORMED[case]
    functools.reduce(dict.__getitem__, keys, last)[key] = value
    files.save(last, run / "last.ckpt")
    assert_refused(run, capsys, "error: --ckpt_path: ", "last.ckpt", flags=("--run_name=new",))
    assert [path.name for path in Path("checkpoints").iterdir()] == ["run"]


@pytest.mark.parametrize("content", [[1], torch.zeros(3), {}, {"state_dict": torch.zeros(3)}])
def test_a_file_without_a_module_is_refused_by_all_commands(
    content: Any, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(run / "last.ckpt")
    files.save(content, Path(path))
    for name in ("fit", "test", "play", "export"):
        assert main([name, "--ckpt_path", path]) == 2
        assert f"error: --ckpt_path: {path} is not a checkpoint" in capsys.readouterr().err


def test_a_checkpoint_of_an_older_format_can_be_tested_but_not_resumed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = read_checkpoint(run)
    last["dqn_lightning"]["format"] = 1
    del last["dqn_lightning"]["progress"]["run_id"]
    files.save(last, run / "last.ckpt")
    assert_refused(run, capsys, "--ckpt_path", "format 1", "format 2")
    path = str(run / "last.ckpt")
    assert main(["test", "--ckpt_path", path, "--data.evaluation.test_episodes=2"]) == 0


def test_a_checkpoint_of_a_newer_format_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = read_checkpoint(run)
    last["dqn_lightning"]["format"] = 3
    files.save(last, run / "last.ckpt")
    assert_refused(run, capsys, "--ckpt_path", "format 3", "format 2")
    assert main(["test", "--ckpt_path", str(run / "last.ckpt")]) == 2
    assert "--ckpt_path" in capsys.readouterr().err


def test_an_older_checkpoint_can_be_tested_and_played_but_not_resumed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = read_checkpoint(run)
    progress = last.pop("dqn_lightning")["progress"]
    last["clock"] = [progress[name] for name in ("env_steps", "episodes", "grad_steps")]
    files.save(last, run / "last.ckpt")
    assert_refused(run, capsys, "--ckpt_path", "format 1")
    path = str(run / "last.ckpt")
    assert main(["test", "--ckpt_path", path, "--data.evaluation.test_episodes=2"]) == 0
    assert main(["play", "--ckpt_path", path, "--out=play.gif", "--episodes=1"]) == 0
    assert Path("play.gif").exists()


def test_a_checkpoint_with_weights_only_initializes_a_new_run(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_files(run)
    no_change = ("--model.optimizer.init_args.lr=0", "--target_sync.every_n_env_steps=1000")
    resume(run, length(250), *no_change, checkpoint="best.ckpt")
    assert "weights only" in caplog.text
    assert read_files(run) == before
    tuned, best = read_checkpoint("checkpoints/run-2"), read_checkpoint(run, "best.ckpt")
    assert differences(tuned["state_dict"], best["state_dict"]) == []
    assert tuned["dqn_lightning"]["progress"]["env_steps"] == 250
    assert tuned["dqn_lightning"]["progress"]["grad_steps"] > 0


def test_episodes_of_an_environment_that_cannot_be_restored_are_truncated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flags = ["--data.env.id=toy/Fickle-v0", "--data.evaluation.every_env_steps=null"]
    run = fit("cartpole", "run", *CARTPOLE_SHORT, *flags, length(300))
    resume(run, length(400))
    assert "truncated" in caplog.text
    rows = torch.load(next((run / "state" / "rank-0").glob("rows-*")), weights_only=True)["rows"]
    assert int(rows["truncated"].sum()) == 1


def test_state_files_are_deleted_with_the_last_checkpoint_that_refers_to_them() -> None:
    flags = (
        *CARTPOLE_SHORT,
        "--checkpoints.every_n_env_steps=100",
        "--checkpoints.keep_last=3",
        "--data.schedule.rollout_env_steps=50",
        length(850),
    )
    run = fit("cartpole", "run", *flags)
    kept = sorted(path.name for path in run.glob("env_steps-*.ckpt"))
    assert kept == ["env_steps-700.ckpt", "env_steps-800.ckpt", "env_steps-850.ckpt"]
    states = {path.name.split("-")[0] for path in (run / "state" / "rank-0").glob("[0-9]*")}
    assert states == {"700", "800", "850"}
    uninterrupted = Path("checkpoints", "uninterrupted")
    shutil.copytree(run, uninterrupted)
    for name in kept:
        resume(run, length(850), checkpoint=name)
        assert_same_run(uninterrupted, run)


def test_a_full_disk_ends_the_run_and_keeps_its_checkpoints(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_to_full_disk(path: Path, content: Any) -> None:
        raise OSError(28, "No space left on device")

    before = read_files(run)
    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    assert main(["fit", "--ckpt_path", str(run / "last.ckpt"), *QUIET, length(900)]) == 1
    error = capsys.readouterr().err
    for words in ("No space left", "cannot be written", str(run / "state" / "rank-0")):
        assert words in error
    after = read_files(run)
    for name in ("last.ckpt", "best.ckpt"):
        assert after[str(run / name)] == before[str(run / name)]
    assert {name for name in after if "state" in name} == {n for n in before if "state" in n}
