from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from dqn_lightning import ConfigError
from dqn_lightning.callbacks import TargetSync
from dqn_lightning.callbacks.target_sync import sync_target
from dqn_lightning.types import Clock


class Module(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(online=nn.BatchNorm1d(2), target=nn.BatchNorm1d(2), after_update=[])


def synced_at(callback: TargetSync, clocks: list[Clock]) -> list[int]:
    """Return the indices of the clocks at which the target network is synced."""
    module: Any = Module()
    callback.on_train_start(None, module)
    (after_update,) = module.after_update
    indices = []
    for i, clock in enumerate(clocks):
        nn.init.constant_(module.online.weight, i + 2.0)
        after_update(clock)
        if module.target.weight[0] == i + 2:
            indices.append(i)
    return indices


def grad_steps(counts: range) -> list[Clock]:
    return [Clock(0, 0, n) for n in counts]


def test_the_target_is_synced_every_n_gradient_steps() -> None:
    assert synced_at(TargetSync(every_n_grad_steps=10), grad_steps(range(35))) == [10, 20, 30]


def test_the_first_sync_can_be_set_separately() -> None:
    callback = TargetSync(every_n_episodes=10, first=1)  # episodes 0, 10, 20 if counted from 0
    clocks = [Clock(0, n, 0) for n in range(25)]
    assert synced_at(callback, clocks) == [1, 11, 21]


def test_a_count_that_skips_a_multiple_causes_one_sync() -> None:
    clocks = [Clock(n, 0, 0) for n in (0, 7, 16, 40, 41, 50)]
    assert synced_at(TargetSync(every_n_env_steps=8), clocks) == [2, 3, 5]


def test_a_period_of_one_syncs_once_per_update() -> None:
    clocks = [Clock(0, 0, n) for n in (0, 1, 1, 2, 2, 3)]
    assert synced_at(TargetSync(every_n_grad_steps=1), clocks) == [1, 3, 5]


def test_polyak_averaging_moves_parameters_and_copies_buffers() -> None:
    online, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(online.weight, 3.0)
    online.running_mean.fill_(5.0)
    online.num_batches_tracked.fill_(9)
    sync_target(online, target, tau=0.25)
    assert target.weight.tolist() == [1.5, 1.5]  # from 1, a quarter of the way to 3
    assert target.running_mean.tolist() == [5.0, 5.0]
    assert target.num_batches_tracked == 9


def test_the_next_sync_is_restored_on_resume() -> None:
    first = TargetSync(every_n_grad_steps=10)
    assert synced_at(first, grad_steps(range(15))) == [10]
    second = TargetSync(every_n_grad_steps=10)
    second.load_state_dict(first.state_dict())
    assert synced_at(second, grad_steps(range(15, 30))) == [5]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "exactly one"),
        ({"every_n_grad_steps": 3, "every_n_episodes": 4}, "exactly one.*null"),
        ({"every_n_env_steps": 0}, r"target_sync\.every_n_env_steps: must be at least 1"),
        ({"every_n_env_steps": 1, "tau": 0.0}, r"target_sync\.tau"),
        ({"every_n_env_steps": 1, "first": -1}, r"target_sync\.first"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TargetSync(**settings)


def test_after_a_resume_with_another_unit_the_next_multiple_is_due() -> None:
    first = TargetSync(every_n_env_steps=1_000)
    synced_at(first, [Clock(5_000, 0, 0)])
    second = TargetSync(every_n_grad_steps=10)
    second.load_state_dict(first.state_dict())
    assert synced_at(second, grad_steps(range(25, 45))) == [5, 15]


def test_after_a_resume_with_a_lower_count_the_next_multiple_is_due() -> None:
    callback = TargetSync(every_n_env_steps=10)
    synced_at(callback, [Clock(5_000, 0, 0)])
    assert synced_at(callback, [Clock(n, 0, 0) for n in range(25)]) == [10, 20]


def test_polyak_averaging_makes_up_for_skipped_multiples() -> None:
    callback, module = TargetSync(every_n_env_steps=1, tau=0.1), Module()
    nn.init.zeros_(module.target.weight)
    callback.on_train_start(None, module)
    for env_steps in (4, 8, 12):
        callback._sync_if_due(Clock(env_steps, 0, 0))
    assert module.target.weight.tolist() == pytest.approx([1 - 0.9**12] * 2)


def test_it_is_unregistered_when_training_ends() -> None:
    callback, module = TargetSync(every_n_grad_steps=1), Module()
    callback.on_train_start(None, module)
    callback.on_train_end(None, module)
    assert module.after_update == []
