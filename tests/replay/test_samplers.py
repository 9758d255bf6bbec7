import numpy as np
import pytest
from numpy.typing import NDArray

from dqn_lightning.replay import Pool, Uniform


def even(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    return rows % 2 == 0


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_every_drawable_row_is_as_likely_as_any_other(replacement: bool, batch_size: int) -> None:
    pool = Pool(range(40, 100), even, generator())  # 30 of them even
    rounds = 6_000 // batch_size
    sampler = Uniform(replacement)
    drawn = np.concatenate([sampler.draw(pool, batch_size).rows for _ in range(rounds)])
    assert even(drawn).all()
    counts = np.bincount(drawn, minlength=100)[40::2]
    expected = batch_size * rounds / 30
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 60  # 29 degrees of freedom: exceeded with probability 0.0006


def test_without_replacement_no_row_comes_twice() -> None:
    for seed in range(50):
        drawn = Uniform(replacement=False).draw(Pool(range(100), even, generator(seed)), 12).rows
        assert len(np.unique(drawn)) == 12
    everything = Uniform(replacement=False).draw(Pool(range(100), even, generator()), 50).rows
    assert sorted(everything.tolist()) == list(range(0, 100, 2))


def test_too_few_rows_are_an_error_and_no_endless_search() -> None:
    with pytest.raises(RuntimeError, match="only 50 rows"):
        Uniform(replacement=False).draw(Pool(range(100), even, generator()), 51)
    with pytest.raises(RuntimeError, match="only 0 rows"):
        Uniform().draw(Pool(range(100), lambda rows: rows < 0, generator()), 5)
    with pytest.raises(RuntimeError, match="empty"):
        Uniform().draw(Pool(range(0), even, generator()), 5)


def test_one_row_among_very_many_is_found() -> None:
    drawn = Uniform().draw(Pool(range(100_000), lambda rows: rows == 77, generator()), 4).rows
    assert drawn.tolist() == [77] * 4


def test_the_same_generator_draws_the_same_rows() -> None:
    first, second = (Uniform().draw(Pool(range(1_000), even, generator(5)), 64) for _ in range(2))
    assert first.rows.tolist() == second.rows.tolist()
    assert first.weight.tolist() == [1.0] * 64
