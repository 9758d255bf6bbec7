"""Fuzzer: a run whose files are damaged equals the uninterrupted run, or is refused.

`DAMAGE_CASES=600 DAMAGE_SEED=7 pytest tests/test_damaged_runs.py -m processes` tries other cases.
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from dqn_lightning.checkpointing import store
from dqn_lightning.cli.main import main
from tests.helpers.commands import CONFIGS, read_files
from tests.helpers.states import differences, read_run

pytestmark = pytest.mark.processes  # runs whole commands

NUM_CASES = int(os.environ.get("DAMAGE_CASES", "24"))
FIRST_CASE = 1_000_000 * int(os.environ.get("DAMAGE_SEED", "0"))
RUN = Path("checkpoints", "run")
FLAGS = (
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.log_every_n_steps=5",
    "--data.schedule.learning_starts_env_steps=40",
    "--data.schedule.train_every_env_steps=10",
    "--data.schedule.updates_per_train=2",
    "--data.schedule.rollout_env_steps=20",
    "--data.evaluation.every_env_steps=40",
    "--data.evaluation.episodes=1",
    "--data.replay.capacity=100",
    "--data.replay.batch_size=16",
    "--data.replay.sampler=dqn_lightning.replay.Prioritized",
    "--model.network.init_args.widths=[8]",
    "--checkpoints.keep_last=3",
)
KEPT = ("config.yaml", ".png")
"""Files that are not damaged: the settings are the user's to edit, and plots are drawn again."""


def fit(name: str, env_steps: int, seed: int = 1) -> None:
    config, total = f"--config={CONFIGS / 'cartpole.yaml'}", total_env_steps(env_steps)
    seeded = f"--seed_everything={seed}"
    assert main(["fit", config, f"--run_name={name}", seeded, total, *FLAGS]) == 0


def total_env_steps(number: int) -> str:
    return f"--data.schedule.total_env_steps={number}"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `run` (160 steps), the same run with 200 steps, and another run."""
    directory = tmp_path_factory.mktemp("originals")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(store, "PIECE_BYTES", 700)  # many files with rows
        fit("run", 160)
        fit("uninterrupted", 200)
        fit("other", 160, seed=2)
    return directory / "checkpoints"


def damage(rng: random.Random, other: Path) -> tuple[str, list[Path]]:
    """Damage a file of the run; return what was done, and the files."""
    files = sorted(p for p in RUN.rglob("*") if p.is_file() and not p.name.endswith(KEPT))
    path, kind = rng.choice(files), rng.choice(["flip", "truncate", "delete", "swap", "replace"])
    content = path.read_bytes()
    if kind == "flip":
        position = rng.randrange(len(content))
        changed = bytearray(content)
        changed[position] ^= rng.randrange(1, 256)
        path.unlink()  # it may be a hard link
        path.write_bytes(changed)
        return f"byte {position} of {path} flipped", [path]
    if kind == "truncate":
        length = rng.randrange(len(content))
        path.unlink()
        path.write_bytes(content[:length])
        return f"{path} truncated to {length} bytes", [path]
    path.unlink()
    if kind == "delete":
        return f"{path} deleted", [path]
    foreign = sorted(p for p in other.rglob("*") if p.suffix == path.suffix and p.is_file())
    alike = [p for p in files if p != path and p.suffix == path.suffix]
    source = rng.choice(foreign if kind == "replace" else alike or foreign)
    shutil.copyfile(source, path)
    if kind == "swap" and alike:
        source.unlink()
        source.write_bytes(content)
    return f"{path} replaced by {source}", [path, source]


@pytest.mark.parametrize("case", range(NUM_CASES))
def test_a_run_with_a_damaged_file_equals_the_uninterrupted_run_or_is_refused(
    case: int,
    originals: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store, "PIECE_BYTES", 700)
    shutil.copytree(originals / "run", RUN)
    description, paths = damage(random.Random(FIRST_CASE + case), originals / "other")
    before = read_files(RUN)
    exit_code = main(["fit", f"--ckpt_path={RUN / 'last.ckpt'}", total_env_steps(200)])
    (*_, error) = ["", *capsys.readouterr().err.splitlines()]
    if exit_code == 0 and "contains weights only" not in caplog.text:
        reference = read_run(originals / "uninterrupted")
        assert differences(read_run(RUN), reference) == [], description
        return
    assert read_files(RUN) == before, description
    if exit_code != 0:  # else it was replaced by best.ckpt, which initializes a new run
        assert exit_code == 2, (description, error)
        assert error.startswith("error: --ckpt_path: "), (description, error)
        assert any(path.name in error for path in paths), (description, error)
        assert [p.name for p in RUN.parent.iterdir()] == ["run"], description
