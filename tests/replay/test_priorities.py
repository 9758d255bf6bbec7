from typing import Any

import numpy as np
import pytest
import torch

from dqn_lightning.replay import PrefixSums, SumTree

KINDS = [SumTree, PrefixSums]


def put(priorities: Any, positions: Any, values: Any, where: Any = None) -> None:
    numbers = (np.asarray(positions, np.int64), np.asarray(values, np.float64))
    mask = None if where is None else priorities.to_array(np.asarray(where))
    priorities.set(*map(priorities.to_array, numbers), mask)


def leaves(priorities: Any) -> np.ndarray:
    return priorities.state_dict()["leaves"].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_find_matches_a_calculation_by_hand(kind: Any) -> None:
    priorities = kind(6)
    put(priorities, [1, 3, 4], [1, 2, 1])
    assert float(priorities.total) == 4
    assert int(priorities.num_positive) == 3
    fractions = np.array([0, 0.24, 0.25, 0.74, 0.75, 0.99, 1.0])
    assert priorities.find(fractions).tolist() == [1, 1, 3, 3, 4, 4, 4]
    assert priorities.probabilities(np.array([0, 1, 3]), 0.0).tolist() == [0, 0.25, 0.5]
    mixed = priorities.probabilities(np.array([1, 3]), 0.5)
    assert mixed.tolist() == pytest.approx([0.125 + 1 / 6, 0.25 + 1 / 6])


@pytest.mark.parametrize("kind", KINDS)
def test_a_repeated_position_gets_its_largest_value_and_masked_values_are_not_set(
    kind: Any,
) -> None:
    priorities = kind(5)
    put(priorities, [2, 2, 2, 0], [1, 3, 2, 7])
    put(priorities, [0, 0, 4], [9, 5, 8], where=[False, True, False])
    assert leaves(priorities).tolist() == [5, 0, 3, 0, 0]
    assert float(priorities.max_value) == 7  # masked values do not count
    assert int(priorities.num_positive) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_find_returns_position_0_if_all_leaves_are_0(kind: Any) -> None:
    assert kind(5_000).find(np.array([0.0, 0.5, 1.0])).tolist() == [0, 0, 0]


class Naive:
    """A list of leaves; each search adds them up one by one."""

    def __init__(self, capacity: int) -> None:
        self.leaves = [0.0] * capacity

    def set(self, positions: np.ndarray, values: np.ndarray) -> None:
        for position in positions.tolist():
            self.leaves[position] = 0.0
        for position, value in zip(positions.tolist(), values.tolist(), strict=True):
            self.leaves[position] = max(self.leaves[position], value)

    def find(self, fraction: float) -> int:
        mass, passed = fraction * sum(self.leaves), 0.0
        for position, leaf in enumerate(self.leaves):
            passed += leaf
            if passed > mass:
                return position
        return max(i for i, leaf in enumerate(self.leaves) if leaf > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_find_agrees_with_a_naive_prefix_sum(seed: int, kind: Any) -> None:
    """Uses integers, so that sums are exact and the ends of all segments can be tested."""
    rng = np.random.default_rng(seed)
    capacity = int(rng.choice([1, 7, 1_024, 4_097, 70_000]))
    priorities, naive = kind(capacity), Naive(capacity)
    for _ in range(12):
        positions = rng.integers(0, capacity, int(rng.integers(1, 60)))
        values = rng.integers(0, 5, len(positions)).astype(float)
        put(priorities, positions, values)
        naive.set(positions, values)
        total = int(priorities.total)
        assert total == sum(naive.leaves)
        assert int(priorities.num_positive) == sum(leaf > 0 for leaf in naive.leaves)
        if total:
            masses = rng.integers(0, total, 5)
            # Plus a quarter, so that rounding does not move a fraction into another segment.
            fractions = (masses + 0.25) / total
            assert priorities.find(fractions).tolist() == list(map(naive.find, fractions))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [50, 5_000, 100_000])
def test_find_never_returns_an_empty_leaf_in_spite_of_rounding(kind: Any, capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    for _ in range(10):
        priorities = kind(capacity)
        filled = rng.permutation(capacity)[: capacity // 3]
        put(priorities, filled, 10 ** rng.uniform(-12, 12, len(filled)))
        running = leaves(priorities).cumsum()
        edges = rng.choice(running, 100) / running[-1]  # where segments meet
        fractions = np.concatenate([edges, np.nextafter(edges, 0), [0.0, 1.0]])
        found = priorities.find(np.clip(fractions, 0, 1))
        assert (leaves(priorities)[found] > 0).all()


def test_a_search_that_rounding_led_to_an_empty_leaf_is_repeated_on_all_leaves() -> None:
    tree = SumTree(10_000)
    put(tree, [3, 9_000], [1, 3])
    fractions = np.array([0.0, 0.24, 0.26, 1.0])
    assert tree._find_slowly(fractions).tolist() == [3, 3, 9_000, 9_000]
    tree._levels[1][10] = 4  # a rounding error above leaves 160 to 175, which are all 0
    assert tree.find(fractions).tolist() == [3, 3, 9_000, 9_000]


@pytest.mark.parametrize("seed", range(5))
def test_a_tree_restored_from_its_leaves_equals_the_original_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacity = int(rng.choice([3, 5_000, 66_000]))
    original, rebuilt = SumTree(capacity), SumTree(capacity)
    for _ in range(60):
        positions = rng.integers(0, capacity, int(rng.integers(1, 200)))
        put(original, positions, rng.random(len(positions)) * (rng.random(len(positions)) < 0.7))
    rebuilt.load_state_dict(original.state_dict())
    assert rebuilt.num_positive == original.num_positive
    assert rebuilt.max_value == original.max_value
    for ours, theirs in zip(rebuilt._levels, original._levels, strict=True):
        assert ours.tolist() == theirs.tolist()
    fractions = rng.random(1_000)
    assert rebuilt.find(fractions).tolist() == original.find(fractions).tolist()


def test_both_implementations_agree_and_load_each_others_state() -> None:
    rng = np.random.default_rng(0)
    tree, sums = SumTree(30_000, initial_max=0.5), PrefixSums(30_000, initial_max=0.5)
    for _ in range(20):
        positions = rng.integers(0, 30_000, 500)
        values, where = rng.random(500), rng.random(500) < 0.8
        put(tree, positions, values, where)
        put(sums, positions, values, where)
    assert leaves(tree).tolist() == leaves(sums).tolist()
    assert tree.max_value == float(sums.max_value)
    fractions = rng.random(1_000)
    assert tree.find(fractions).tolist() == sums.find(fractions).tolist()
    other, another = PrefixSums(30_000), SumTree(30_000)
    other.load_state_dict(tree.state_dict())
    another.load_state_dict(sums.state_dict())
    assert (
        other.find(fractions).tolist()
        == another.find(fractions).tolist()
        == sums.find(fractions).tolist()
    )
    torch.testing.assert_close(float(other.total), another.total)
