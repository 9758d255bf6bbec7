from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dqn_lightning import ConfigError, NonFiniteError
from dqn_lightning.callbacks import Checkpoints
from dqn_lightning.checkpointing import files
from dqn_lightning.errors import WriteError
from dqn_lightning.types import RunProgress


class FakeTrainer(SimpleNamespace):
    """Save the score of the newest evaluation instead of a checkpoint."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            log_dir=str(directory),
            fast_dev_run=False,
            is_global_zero=True,
            global_step=0,
            callback_metrics={},
            lightning_module=torch.nn.Linear(1, 1),
            callbacks=[],
            strategy=SimpleNamespace(barrier=lambda: None),
        )

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        score = self.callback_metrics["eval/return_mean"]
        files.save([float(score), weights_only], path)


def evaluate(callback: Checkpoints, trainer: Any, scores: list[float]) -> None:
    """Evaluate every 100 environment steps, with these scores."""
    module: Any = SimpleNamespace(
        progress=RunProgress(), summary="an evaluation", evaluates_training=True
    )
    callback.on_train_start(trainer, module)
    for i, score in enumerate(scores, start=1):
        module.progress = RunProgress(env_steps=100 * i, rollout_end=100 * i, grad_steps=i)
        trainer.callback_metrics["eval/return_mean"] = torch.tensor(score)
        callback.on_validation_end(trainer, module)


def test_best_is_the_first_of_the_best_evaluations(tmp_path: Path) -> None:
    callback, trainer = Checkpoints(), FakeTrainer(tmp_path)
    evaluate(callback, trainer, [1.0, 5.0, 3.0, 5.0, 4.0])
    assert (callback.best, callback.best_env_steps) == (5.0, 200)
    assert torch.load(tmp_path / "best.ckpt") == [5.0, True]
    assert torch.load(tmp_path / "last.ckpt") == [4.0, False]
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_resumed_run_compares_with_the_restored_best_score(tmp_path: Path) -> None:
    first = Checkpoints()
    evaluate(first, FakeTrainer(tmp_path), [5.0])
    second = Checkpoints()
    second.load_state_dict(first.state_dict())
    evaluate(second, FakeTrainer(tmp_path), [4.0])
    assert torch.load(tmp_path / "best.ckpt") == [5.0, True]


def test_a_second_fit_discards_the_best_score_of_the_first(tmp_path: Path) -> None:
    callback, trainer = Checkpoints(), FakeTrainer(tmp_path)
    evaluate(callback, trainer, [5.0])
    module: Any = None
    callback.setup(trainer, module, "validate")
    assert callback.best == 5.0
    callback.setup(trainer, module, "fit")
    evaluate(callback, trainer, [4.0])
    assert (callback.best, callback.best_env_steps) == (4.0, 100)
    assert torch.load(tmp_path / "best.ckpt") == [4.0, True]


def test_a_run_resumed_in_another_directory_discards_the_best_score(tmp_path: Path) -> None:
    first, directories = Checkpoints(), (tmp_path / "a", tmp_path / "b")
    for directory in directories:
        directory.mkdir()
    evaluate(first, FakeTrainer(directories[0]), [5.0])
    second = Checkpoints()
    second.load_state_dict(first.state_dict())
    evaluate(second, FakeTrainer(directories[1]), [4.0])
    assert torch.load(directories[1] / "best.ckpt") == [4.0, True]


def test_the_newest_numbered_checkpoints_are_kept_and_abandoned_ones_deleted(
    tmp_path: Path,
) -> None:
    callback, trainer = Checkpoints(keep_last=2), FakeTrainer(tmp_path)
    torch.save("from a continuation that was abandoned", tmp_path / "env_steps-900.ckpt")
    evaluate(callback, trainer, [1.0, 2.0, 3.0, 4.0])
    kept = {path.name for path in tmp_path.glob("env_steps-*.ckpt")}
    assert kept == {"env_steps-300.ckpt", "env_steps-400.ckpt"}
    assert torch.load(tmp_path / "env_steps-400.ckpt") == [4.0, False]
    assert torch.load(tmp_path / "env_steps-300.ckpt") == [3.0, False]
    assert torch.load(tmp_path / "last.ckpt") == [4.0, False]


def test_an_unknown_metric_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    message = r"checkpoints\.monitor: .*eval/nope.*eval/return_mean"
    with pytest.raises(ConfigError, match=message):
        evaluate(Checkpoints(monitor="eval/nope"), FakeTrainer(tmp_path), [5.0])


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    callback, trainer = Checkpoints(), FakeTrainer(tmp_path)
    torch.nn.init.constant_(trainer.lightning_module.weight, float("nan"))
    with pytest.raises(NonFiniteError, match=r"best\.ckpt"):
        evaluate(callback, trainer, [5.0])
    assert callback.best is None
    assert not list(tmp_path.iterdir())


def test_buffered_rows_reach_the_disk_before_an_evaluation(tmp_path: Path) -> None:
    """Issue 22: an evaluation can take minutes, in which `plot` shall see what was logged."""
    trainer, saved = FakeTrainer(tmp_path), list[str]()
    trainer.loggers = [SimpleNamespace(save=lambda: saved.append("saved"))]
    module: Any = None
    Checkpoints().on_validation_start(trainer, module)
    assert saved == ["saved"]


def resume(directory: Path, checkpoint_directory: Path, run_id: str = "a run") -> None:
    """Restore a callback whose best evaluation was at step 200."""
    callback, trainer = Checkpoints(), FakeTrainer(directory)
    trainer.ckpt_path = str(checkpoint_directory / "last.ckpt")
    module: Any = SimpleNamespace(progress=RunProgress(env_steps=300, run_id=run_id))
    state = {"callbacks": {callback.state_key: {"best": 5.0, "best_env_steps": 200}}}
    callback.on_load_checkpoint(trainer, module, state)


def write_best(directory: Path, env_steps: int, **more: Any) -> None:
    progress = RunProgress(env_steps=env_steps, run_id="a run")
    content = {"dqn_lightning": {"progress": progress.state_dict()}, **more}
    files.save(content, directory / "best.ckpt")


def test_the_best_checkpoint_of_a_resumed_run_must_be_the_expected_one(tmp_path: Path) -> None:
    write_best(tmp_path, 200)
    resume(tmp_path, tmp_path)
    write_best(tmp_path, 300)  # a run was killed after it wrote best.ckpt and before last.ckpt
    resume(tmp_path, tmp_path)
    name = r"^--ckpt_path: last\.ckpt refers to: .*best\.ckpt"
    with pytest.raises(ConfigError, match=rf"{name} belongs to another run; --run_name=NAME"):
        resume(tmp_path, tmp_path, run_id="other")
    for other in (
        {"env_steps": 100},
        {"env_steps": 250},
        {"env_steps": 300, "optimizer_states": []},
    ):
        write_best(tmp_path, **other)
        with pytest.raises(ConfigError, match=rf"{name} was not saved by .* step 200;"):
            resume(tmp_path, tmp_path)
    (tmp_path / "best.ckpt").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=rf"{name} is corrupt"):
        resume(tmp_path, tmp_path)
    (tmp_path / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match=rf"{name} cannot be read"):
        resume(tmp_path, tmp_path)


def test_a_run_resumed_in_another_directory_does_not_need_the_best_checkpoint(
    tmp_path: Path,
) -> None:
    (tmp_path / "new").mkdir()
    resume(tmp_path / "new", tmp_path)


class FullDiskTrainer(FakeTrainer):
    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        raise OSError(f"{path} cannot be written: No space left on device")


def test_a_rank_that_cannot_write_meets_the_others_at_the_barrier_before_it_fails(
    tmp_path: Path,
) -> None:
    trainer, barriers = FullDiskTrainer(tmp_path), list[str]()
    trainer.strategy.barrier = lambda: barriers.append("barrier")
    with pytest.raises(WriteError, match=r"^.*best\.ckpt cannot be written: No space left"):
        evaluate(Checkpoints(), trainer, [5.0])
    assert barriers == ["barrier"]


@pytest.mark.parametrize("name", ["every_n_env_steps", "every_n_minutes", "keep_last"])
def test_periods_and_keep_last_must_be_positive(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=rf"checkpoints\.{name}: .*positive.* 0"):
        Checkpoints(**settings)
