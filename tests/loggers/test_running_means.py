import pytest
import torch
from torch import Tensor

from dqn_lightning.errors import NonFiniteError
from dqn_lightning.loggers.running_means import RunningMeans, check_finite


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def test_means_are_taken_over_rows_and_updates_and_start_again_after_each_log_entry() -> None:
    means = RunningMeans("loss", "error")
    means.update(values(1, 3), values(0, 0))
    means.update(values(5, 7), values(0, 2))
    assert means.compute() == {"loss": 4.0, "error": 0.5}
    means.update(values(1, 1), values(9, 9))
    assert means.compute() == {"loss": 1.0, "error": 9.0}


def test_a_run_that_resumes_with_another_batch_size_keeps_the_mean() -> None:
    means = RunningMeans("loss")
    means.update(values(1, 3))
    means.update(values(4, 4, 4))
    assert means.compute() == {"loss": 3.0}


def test_resuming_does_not_change_the_content_of_the_checkpoint() -> None:
    saved = RunningMeans("loss")
    saved.update(values(1, 3))
    state = saved.state_dict()
    for _ in range(2):
        resumed = RunningMeans("loss")
        resumed.load_state_dict(state)
        resumed.update(values(5, 7))
        assert resumed.compute() == {"loss": 4.0}


def test_values_that_are_not_finite_are_refused() -> None:
    check_finite({"loss": 1.0}, "update 3")
    for value in (float("nan"), float("inf")):
        with pytest.raises(NonFiniteError, match="update 3"):
            check_finite({"loss": 1.0, "error": value}, "update 3")
