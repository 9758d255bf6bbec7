import pytest
import torch
from torch import Tensor

from dqn_lightning.engines.tape import Tape
from dqn_lightning.errors import UntraceableError


def record(function: object, *inputs: Tensor) -> tuple[Tape, Tensor]:
    tape = Tape()
    with tape:
        result = function(*inputs)  # type: ignore[operator]  # any function
    (kept,) = tape.keep(result)
    return tape, kept


def test_a_tape_computes_again_from_what_its_inputs_hold() -> None:
    a, b = torch.randn(3, 4), torch.randn(4)
    tape, result = record(lambda x, y: (x.t() * 2).sum(1).relu() + y, a, b)
    a.normal_(), b.normal_()
    tape()
    assert torch.equal(result, (a.t() * 2).sum(1).relu() + b)


def test_views_and_what_nobody_reads_take_no_operation() -> None:
    def function(x: Tensor) -> Tensor:
        x.exp().mean()
        return x.view(2, 6).t()[1:].reshape(-1)[None] + torch.ones_like(x.mean())

    tape, _ = record(function, torch.randn(12))
    assert len(tape) == 2  # a copy, since that is no view any more, and the sum


def test_constants_are_computed_once() -> None:
    def function(x: Tensor) -> Tensor:
        return x * (torch.zeros_like(x) + torch.arange(3)).exp()

    tape, result = record(function, torch.ones(3))
    assert len(tape) == 1
    tape()
    assert torch.equal(result, torch.arange(3).float().exp())


def test_what_is_written_in_place_is_written_again() -> None:
    count, x = torch.zeros(3), torch.ones(3)

    def function(x: Tensor) -> Tensor:
        count.add_(1)
        y = torch.zeros_like(x)
        y[1:] = x[1:]
        return y.mul_(count)

    tape, result = record(function, x)
    x.fill_(2)
    tape()
    tape()
    assert count.tolist() == [3, 3, 3]
    assert result.tolist() == [0, 6, 6]


def test_adding_to_neighbours_in_memory_is_one_operation() -> None:
    def add(counts: list[Tensor]) -> Tape:
        tape = Tape()
        with tape:
            torch._foreach_add_(counts, 2)
        tape.keep()
        tape()
        return tape

    whole = torch.arange(4.0)
    add(list(whole[1:]))
    assert whole.tolist() == [0, 5, 6, 7]
    apart = [whole[0], whole[2], torch.zeros(())]
    add(apart)
    assert torch.stack(apart).tolist() == [4, 10, 4]
    assert whole.tolist() == [4, 5, 10, 7]


def test_random_numbers_come_as_they_would() -> None:
    def function(x: Tensor) -> Tensor:
        torch.rand(5)  # nobody reads it, but what comes next depends on it
        return x + torch.randn(3)

    torch.manual_seed(0)
    tape, result = record(function, torch.zeros(3))
    tape()
    repeated = result.clone()
    torch.manual_seed(0)
    function(torch.zeros(3))
    assert torch.equal(repeated, function(torch.zeros(3)))


def test_operations_without_a_place_to_write_into() -> None:
    weight, x = torch.randn(2, 1, 3), torch.randn(1, 1, 8)
    tape, result = record(lambda x: torch.conv1d(x, weight).relu().flatten(), x)
    x.normal_()
    tape()
    assert torch.equal(result, torch.conv1d(x, weight).relu().flatten())


@pytest.mark.parametrize(
    "function",
    [lambda x: x * x.sum().item(), lambda x: x[x > 0], lambda x: x if x.sum() > 9 else -x],
)
def test_numbers_that_reach_python_are_refused(function: object) -> None:
    with pytest.raises(UntraceableError, match="gives Python what depends on numbers"):
        record(function, torch.ones(3))
