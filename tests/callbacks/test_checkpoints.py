from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dqn_lightning import ConfigError, NonFiniteError
from dqn_lightning.callbacks import Checkpoints
from dqn_lightning.types import Clock


class FakeTrainer(SimpleNamespace):
    """Writes the scores it is asked to save."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            log_dir=str(folder),
            fast_dev_run=False,
            is_global_zero=True,
            global_step=0,
            callback_metrics={},
            lightning_module=torch.nn.Linear(1, 1),
            callbacks=[],
            datamodule=SimpleNamespace(dataset=SimpleNamespace(boundary=0)),
            strategy=SimpleNamespace(barrier=lambda: None),
        )

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        score = self.callback_metrics["eval/return_mean"]
        torch.save([float(score), weights_only], path)


def evaluate(callback: Checkpoints, trainer: Any, scores: list[float]) -> None:
    module: Any = SimpleNamespace(
        clock=Clock(0, 0, 0), summary="there is one", evaluates_training=True
    )
    callback.on_train_start(trainer, module)
    for i, score in enumerate(scores, start=1):
        module.clock = Clock(100 * i, 0, i)
        trainer.callback_metrics["eval/return_mean"] = torch.tensor(score)
        callback.on_validation_end(trainer, module)


def test_best_is_the_best_evaluation_and_of_equals_the_first(tmp_path: Path) -> None:
    callback, trainer = Checkpoints(), FakeTrainer(tmp_path)
    evaluate(callback, trainer, [1.0, 5.0, 3.0, 5.0, 4.0])
    assert (callback.best, callback.best_env_steps) == (5.0, 200)
    assert torch.load(tmp_path / "best.ckpt") == [5.0, True]
    assert torch.load(tmp_path / "last.ckpt") == [4.0, False]
    assert len(list(tmp_path.iterdir())) == 2  # nothing half-written


def test_it_goes_on_comparing_with_the_best_of_before(tmp_path: Path) -> None:
    first = Checkpoints()
    evaluate(first, FakeTrainer(tmp_path), [5.0])
    second = Checkpoints()
    second.load_state_dict(first.state_dict())
    evaluate(second, FakeTrainer(tmp_path), [4.0])
    assert torch.load(tmp_path / "best.ckpt") == [5.0, True]


def test_a_run_under_another_name_finds_a_best_of_its_own(tmp_path: Path) -> None:
    first, folders = Checkpoints(), (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        folder.mkdir()
    evaluate(first, FakeTrainer(folders[0]), [5.0])
    second = Checkpoints()
    second.load_state_dict(first.state_dict())
    evaluate(second, FakeTrainer(folders[1]), [4.0])
    assert torch.load(folders[1] / "best.ckpt") == [4.0, True]


def test_the_newest_are_kept_and_those_of_a_future_given_up_are_not(tmp_path: Path) -> None:
    callback, trainer = Checkpoints(keep_last=2), FakeTrainer(tmp_path)
    torch.save("of a run that went on from before it", tmp_path / "env_steps-900.ckpt")
    evaluate(callback, trainer, [1.0, 2.0, 3.0, 4.0])
    kept = {path.name for path in tmp_path.glob("env_steps-*.ckpt")}
    assert kept == {"env_steps-300.ckpt", "env_steps-400.ckpt"}
    assert torch.load(tmp_path / "env_steps-400.ckpt") == [4.0, False]
    assert torch.load(tmp_path / "env_steps-300.ckpt") == [3.0, False]
    assert torch.load(tmp_path / "last.ckpt") == [4.0, False]


def test_a_value_that_no_evaluation_has_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing is named eval/nope; use eval/return_mean"):
        evaluate(Checkpoints(monitor="eval/nope"), FakeTrainer(tmp_path), [5.0])


def test_weights_that_are_not_finite_are_neither_saved_nor_the_best(tmp_path: Path) -> None:
    callback, trainer = Checkpoints(), FakeTrainer(tmp_path)
    torch.nn.init.constant_(trainer.lightning_module.weight, float("nan"))
    with pytest.raises(NonFiniteError, match=r"best\.ckpt is not written"):
        evaluate(callback, trainer, [5.0])
    assert callback.best is None
    assert not list(tmp_path.iterdir())


def test_periods_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"checkpoints\.every_n_env_steps: must be positive"):
        Checkpoints(every_n_env_steps=0)
