from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from dqn_lightning.callbacks import TargetSync, Timing
from tests.helpers.training import QUIET, Recorder, make, train


def test_the_shares_of_the_time_add_up_to_one() -> None:
    module, data = make(eval_every_env_steps=100)
    recorder = Recorder()
    train(module, data, Timing(every_s=0.0), logger=recorder)
    by_step: dict[int, dict[str, float]] = {}
    for env_steps, name, value in recorder.rows:
        if name.endswith("_share"):
            by_step.setdefault(env_steps, {})[name.removeprefix("time/")] = value
    assert list(by_step) == [100, 200, 300]
    names = {"environment", "acting", "update", "evaluation", "rest"}
    for shares in by_step.values():
        assert shares.keys() == {f"{name}_share" for name in names}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(0 <= share <= 1 for share in shares.values())
    assert by_step[300]["update_share"] > 0
    assert by_step[100]["environment_share"] > 0


def test_a_checkpoint_can_be_saved_after_validate(tmp_path: Path) -> None:
    module, data = make()
    callbacks = [Timing(), TargetSync(every_n_grad_steps=10)]
    trainer = Trainer(callbacks=callbacks, enable_checkpointing=False, **QUIET)
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.save_checkpoint(tmp_path / "validated.ckpt")
    content = torch.load(tmp_path / "validated.ckpt", weights_only=True)
    assert content["callbacks"]["Timing"] == {"elapsed_s": 0.0}


def test_the_elapsed_time_stands_still_after_training() -> None:
    callback = Timing()
    train(*make(), callback)
    assert callback.state_dict() == callback.state_dict() == {"elapsed_s": callback.elapsed_s}
