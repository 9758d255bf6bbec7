import pytest
import torch
from torch import Tensor

from dqn_lightning.replay import Uniform


def even(rows: Tensor) -> Tensor:
    return rows % 2 == 0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_every_drawable_row_is_as_likely_as_any_other(replacement: bool, batch_size: int) -> None:
    sampler, source = Uniform(replacement), generator()
    rounds = 6_000 // batch_size
    rows = range(40, 100)  # 30 of them even
    drawn = torch.cat([sampler.draw(rows, even, batch_size, source) for _ in range(rounds)])
    assert even(drawn).all()
    counts = torch.bincount(drawn, minlength=100)[40::2].double()
    expected = batch_size * rounds / 30
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 60  # 29 degrees of freedom: exceeded with probability 0.0006


def test_without_replacement_no_row_comes_twice() -> None:
    for seed in range(50):
        drawn = Uniform(replacement=False).draw(range(100), even, 12, generator(seed))
        assert len(drawn.unique()) == 12
    everything = Uniform(replacement=False).draw(range(100), even, 50, generator())
    assert sorted(everything.tolist()) == list(range(0, 100, 2))


def test_too_few_rows_are_an_error_and_no_endless_search() -> None:
    with pytest.raises(RuntimeError, match="only 50 rows"):
        Uniform(replacement=False).draw(range(100), even, 51, generator())
    with pytest.raises(RuntimeError, match="only 0 rows"):
        Uniform().draw(range(100), lambda rows: rows < 0, 5, generator())
    with pytest.raises(RuntimeError, match="empty"):
        Uniform().draw(range(0), even, 5, generator())


def test_one_row_among_very_many_is_found() -> None:
    drawn = Uniform().draw(range(100_000), lambda rows: rows == 77, 4, generator())
    assert drawn.tolist() == [77] * 4


def test_the_same_generator_draws_the_same_rows() -> None:
    first, second = (Uniform().draw(range(1_000), even, 64, generator(5)) for _ in range(2))
    assert first.tolist() == second.tolist()
