import numpy as np
import pytest
from numpy.typing import NDArray

from dqn_lightning.replay import SamplingPool, Uniform


def even(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    return rows % 2 == 0


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_all_samplable_rows_are_equally_likely(replacement: bool, batch_size: int) -> None:
    pool = SamplingPool(range(40, 100), even, generator())  # 30 of them even
    rounds = 6_000 // batch_size
    sampler = Uniform(replacement)
    sampled = np.concatenate([sampler.sample(pool, batch_size).rows for _ in range(rounds)])
    assert even(sampled).all()
    counts = np.bincount(sampled, minlength=100)[40::2]
    expected = batch_size * rounds / 30
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 60  # 29 degrees of freedom: exceeded with probability 0.0006


def test_without_replacement_no_row_is_repeated() -> None:
    for seed in range(50):
        sampled = (
            Uniform(replacement=False)
            .sample(SamplingPool(range(100), even, generator(seed)), 12)
            .rows
        )
        assert len(np.unique(sampled)) == 12
    everything = (
        Uniform(replacement=False).sample(SamplingPool(range(100), even, generator()), 50).rows
    )
    assert sorted(everything.tolist()) == list(range(0, 100, 2))


def test_too_few_rows_are_an_error_and_not_an_endless_loop() -> None:
    with pytest.raises(RuntimeError, match="only 50 rows"):
        Uniform(replacement=False).sample(SamplingPool(range(100), even, generator()), 51)
    with pytest.raises(RuntimeError, match="only 0 rows"):
        Uniform().sample(SamplingPool(range(100), lambda rows: rows < 0, generator()), 5)
    with pytest.raises(RuntimeError, match="empty"):
        Uniform().sample(SamplingPool(range(0), even, generator()), 5)


def test_a_single_samplable_row_among_many_is_found() -> None:
    sampled = (
        Uniform().sample(SamplingPool(range(100_000), lambda rows: rows == 77, generator()), 4).rows
    )
    assert sampled.tolist() == [77] * 4


def test_the_same_seed_samples_the_same_rows() -> None:
    first, second = (
        Uniform().sample(SamplingPool(range(1_000), even, generator(5)), 64) for _ in range(2)
    )
    assert first.rows.tolist() == second.rows.tolist()
    assert first.weight.tolist() == [1.0] * 64
