from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dqn_lightning.engines.op_recorder import OpRecorder, RecordabilityCheck
from dqn_lightning.errors import NotRecordableError


def record(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[OpRecorder, Tensor]:
    recorder = OpRecorder()
    with recorder:
        result = function(*inputs)
    (output,) = recorder.finish(result)
    return recorder, output


def test_a_recording_uses_the_current_contents_of_its_inputs() -> None:
    a, b = torch.randn(3, 4), torch.randn(4)
    recorder, result = record(lambda x, y: (x.t() * 2).sum(1).relu() + y, a, b)
    a.normal_(), b.normal_()
    recorder()
    assert torch.equal(result, (a.t() * 2).sum(1).relu() + b)


def test_views_and_unused_results_are_not_repeated() -> None:
    def function(x: Tensor) -> Tensor:
        x.exp().mean()
        return x.view(2, 6).t()[1:].reshape(-1)[None] + torch.ones_like(x.mean())

    recorder, _ = record(function, torch.randn(12))
    assert len(recorder) == 2  # the copy made by reshape, and the sum


def test_constants_are_computed_once() -> None:
    def function(x: Tensor) -> Tensor:
        return x * (torch.zeros_like(x) + torch.arange(3)).exp()

    recorder, result = record(function, torch.ones(3))
    assert len(recorder) == 1
    recorder()
    assert torch.equal(result, torch.arange(3).float().exp())


def test_in_place_operations_are_repeated() -> None:
    count, x = torch.zeros(3), torch.ones(3)

    def function(x: Tensor) -> Tensor:
        count.add_(1)
        y = torch.zeros_like(x)
        y[1:] = x[1:]
        return y.mul_(count)

    recorder, result = record(function, x)
    x.fill_(2)
    recorder()
    recorder()
    assert count.tolist() == [3, 3, 3]
    assert result.tolist() == [0, 6, 6]


def test_adding_to_tensors_that_are_adjacent_in_memory_is_one_operation() -> None:
    def add_twice(counters: list[Tensor]) -> None:
        recorder = OpRecorder()
        with recorder:
            torch._foreach_add_(counters, 2)
        recorder.finish()
        recorder()

    vector = torch.arange(4.0)
    add_twice(list(vector[1:]))
    assert vector.tolist() == [0, 5, 6, 7]
    separate = [vector[0], vector[2], torch.zeros(())]
    add_twice(separate)
    assert torch.stack(separate).tolist() == [4, 10, 4]
    assert vector.tolist() == [4, 5, 10, 7]


def test_a_recording_consumes_the_same_random_numbers() -> None:
    def function(x: Tensor) -> Tensor:
        torch.rand(5)  # unused, but it advances the generator
        return x + torch.randn(3)

    torch.manual_seed(0)
    recorder, result = record(function, torch.zeros(3))
    recorder()
    repeated = result.clone()
    torch.manual_seed(0)
    function(torch.zeros(3))
    assert torch.equal(repeated, function(torch.zeros(3)))


def test_operations_without_an_out_variant_are_repeated() -> None:
    weight, x = torch.randn(2, 1, 3), torch.randn(1, 1, 8)
    recorder, result = record(lambda x: torch.conv1d(x, weight).relu().flatten(), x)
    x.normal_()
    recorder()
    assert torch.equal(result, torch.conv1d(x, weight).relu().flatten())


DATA_DEPENDENT: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda x: x * x.sum().item(),
    "mask": lambda x: x[x > 0],
    "branch": lambda x: x if x.sum() > 9 else -x,
}


@pytest.mark.parametrize("name", DATA_DEPENDENT)
def test_data_dependent_operations_are_refused(name: str) -> None:
    with pytest.raises(NotRecordableError, match="data-dependent"):
        record(DATA_DEPENDENT[name], torch.ones(3))


@pytest.mark.parametrize("name", DATA_DEPENDENT)
def test_a_check_notes_data_dependent_operations_and_runs_them(name: str) -> None:
    check = RecordabilityCheck()
    with check:
        result = DATA_DEPENDENT[name](torch.ones(3))
    assert torch.equal(result, DATA_DEPENDENT[name](torch.ones(3)))
    assert check.reason is not None
    assert "data-dependent" in check.reason


def test_a_check_notes_copies_between_devices() -> None:
    check = RecordabilityCheck()
    with check:
        (torch.ones(3) + 1).to(torch.float64)
    assert check.reason is None
    with check:
        torch.ones(3).to("meta")
    assert check.reason is not None
    assert "copies between devices" in check.reason


def test_a_check_notes_data_dependent_operations_of_the_backward_pass() -> None:
    class Peek(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient * gradient.sum().item()

    check, x = RecordabilityCheck(), torch.ones(2, requires_grad=True)
    with check:
        torch.autograd.grad(Peek.apply(x).sum(), x)
    assert check.reason is not None


def test_collectives_are_refused(tmp_path: object) -> None:
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:

        def average(x: Tensor) -> Tensor:
            dist.all_reduce(x)
            return x

        with pytest.raises(NotRecordableError, match="communicates between ranks"):
            record(average, torch.ones(2))
        check = RecordabilityCheck()
        with check:
            average(torch.ones(2))
        assert check.reason is not None
        assert "communicates between ranks" in check.reason
    finally:
        dist.destroy_process_group()
