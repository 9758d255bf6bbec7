import pytest

from dqn_lightning.callbacks import Timing
from tests.test_module import Recorder, make, train


def test_shares_of_the_time_make_up_all_of_it() -> None:
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
