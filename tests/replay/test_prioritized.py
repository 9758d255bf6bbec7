import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dqn_lightning import ConfigError, Linear, distributed
from dqn_lightning.errors import NonFiniteError
from dqn_lightning.replay import PrefixSums, Prioritized, ReplayBuffer, SamplingPool
from tests.helpers.processes import in_ranks

CPU = torch.device("cpu")
NO = np.array([False])


def filled(length: int, **settings: Any) -> ReplayBuffer:
    """Return a replay of one unfinished episode; row i has reward i."""
    replay = ReplayBuffer(1_000, 1, (1,), torch.float32, **settings)
    replay.reset(np.zeros((1, 1)))
    write(replay, *range(length))
    return replay


def write(replay: ReplayBuffer, *rewards: float) -> None:
    for reward in rewards:
        replay.write(np.zeros(1), np.full(1, reward), NO, NO, np.zeros((1, 1)))


def leaves(replay: ReplayBuffer) -> NDArray[np.float64]:
    state = replay.state_dict()["sampler"]
    return state["leaves"].numpy()


def prioritized(rows: Any, priority: Any, **settings: Any) -> ReplayBuffer:
    """Return a replay of four rows, and set the priorities of some; the others have priority 1."""
    sampler = Prioritized(**{"alpha": 1.0, "beta": 1.0, "eps": 1e-12, **settings})
    replay = filled(4, sampler=sampler)
    replay.sample(1)
    replay.set_priorities(np.array(rows), np.array(priority, np.float64))
    return replay


# Sampled rows and their weights ------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "uniform_share"), [(1.0, 0.0), (0.5, 0.0), (1.0, 0.3), (0, 0)])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_rows_are_sampled_in_proportion_to_their_scaled_priorities(
    alpha: float, uniform_share: float, batch_size: int
) -> None:
    priority = np.array([1.0, 2.0, 0.5, 4.0])
    settings = {"alpha": alpha, "uniform_share": uniform_share}
    replay = prioritized(range(4), priority, **settings)
    rounds = 14_000 // batch_size
    sampled = torch.cat([replay.sample(batch_size).row for _ in range(rounds)]).numpy()
    probability = priority**alpha / (priority**alpha).sum()
    expected = len(sampled) * ((1 - uniform_share) * probability + uniform_share / 4)
    chi_square = ((np.bincount(sampled, minlength=4) - expected) ** 2 / expected).sum().item()
    assert chi_square < 17.7  # 3 degrees of freedom: exceeded with probability 0.0005


def test_a_batch_takes_one_row_from_each_equal_segment_of_the_total() -> None:
    replay = prioritized([0, 1, 2, 3], [1, 1, 2, 4])
    for _ in range(20):
        assert replay.sample(8).row.tolist() == [0, 1, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, [1.0, 1.0, 0.5, 0.25]),  # P = 1, 1, 2, 4 eighths
        ({"beta": 0.5}, [1.0, 1.0, 0.5**0.5, 0.5]),
        ({"beta": 0.0}, [1.0, 1.0, 1.0, 1.0]),
        ({"alpha": 0.5}, [1.0, 1.0, 0.5**0.5, 0.5]),
        # P = (3, 3, 4, 6) sixteenths: the mean of the above and a quarter each
        ({"uniform_share": 0.5}, [1.0, 1.0, 0.75, 0.5]),
        ({"uniform_share": 1.0}, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_importance_weights_match_a_calculation_by_hand(settings: Any, wanted: list[float]) -> None:
    batch = prioritized([2, 3], [2.0, -4.0], **settings).sample(200)
    assert set(batch.row.tolist()) == {0, 1, 2, 3}
    assert batch.weight.dtype == torch.float32
    torch.testing.assert_close(batch.weight, torch.tensor(wanted)[batch.row], rtol=1e-6, atol=0)


def test_the_largest_weight_belongs_to_the_least_likely_row_in_the_batch() -> None:
    replay = prioritized([0, 1, 2, 3], [1e-9, 1.0, 2.0, 4.0])
    batch = replay.sample(7)  # the first row's segment is negligible
    assert batch.row.tolist() == [1, 2, 2, 3, 3, 3, 3]
    assert batch.weight.tolist() == pytest.approx([1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25])


def test_beta_follows_its_schedule_of_environment_steps() -> None:
    replay = prioritized([0, 1, 2, 3], [1, 1, 2, 4], beta=Linear(0.0, 1.0, steps=100))
    for env_steps, beta in ((0, 0.0), (50, 0.5), (100, 1.0), (1_000, 1.0)):
        weight = replay.sample(8, env_steps).weight
        wanted = [p**-beta for p in (1, 1, 2, 2, 4, 4, 4, 4)]
        assert weight.tolist() == pytest.approx(wanted)


def test_on_several_ranks_weights_correct_for_sampling_from_the_rows_of_all_ranks() -> None:
    """Rank 0: four rows with P 1/8, 1/8, 2/8, 4/8; rank 1: two with P 1/4, 3/4. On average, N = 3.

    N P = 3/8, 3/8, 6/8, 12/8 and 3/4, 9/4, so with beta 1 the maximum of 1 / (N P) is 8/3.
    """

    def draw() -> Any:
        if distributed.rank() == 0:
            batch = prioritized([0, 1, 2, 3], [1, 1, 2, 4]).sample(8)
        else:
            replay = filled(2, sampler=Prioritized(alpha=1.0, beta=1.0, eps=1e-12))
            replay.sample(1)  # a collective call, so as often as the other rank
            replay.set_priorities(np.array([0, 1]), np.array([1.0, 3.0]))
            batch = replay.sample(4)
        return dict(zip(batch.row.tolist(), batch.weight.tolist(), strict=True))

    first, second = in_ranks(2, draw)
    assert first == pytest.approx({0: 1.0, 1: 1.0, 2: 1 / 2, 3: 1 / 4})
    assert second == pytest.approx({0: (4 / 3) / (8 / 3), 1: (4 / 9) / (8 / 3)})


# Priorities -------------------------------------------------------------------------------------


def test_a_new_row_gets_the_largest_priority_so_far() -> None:
    replay = filled(2, sampler=Prioritized(alpha=0.5, eps=1e-12))
    replay.sample(1)
    assert leaves(replay)[:3].tolist() == pytest.approx([1, 1, 0])
    replay.set_priorities(np.array([0, 1]), np.array([9.0, -4.0]))
    replay.set_priorities(np.array([0]), np.array([0.0]))
    write(replay, 2.0)
    replay.sample(1)
    assert leaves(replay)[:4].tolist() == pytest.approx([0, 2, 3, 0], abs=1e-5)


def test_a_row_with_priority_0_can_still_be_sampled() -> None:
    replay = filled(3, sampler=Prioritized())
    replay.sample(1)
    replay.set_priorities(torch.arange(3), torch.zeros(3))
    assert leaves(replay)[:3].tolist() == pytest.approx([1e-3] * 3)  # (0 + eps)^0.5
    assert set(replay.sample(30).row.tolist()) == {0, 1, 2}


def test_priorities_can_be_arrays_or_tensors_of_any_precision() -> None:
    seen = []
    for priority in (
        np.array([0.5, 2.0]),
        np.array([0.5, 2.0], np.float32),
        torch.tensor([0.5, 2.0]),
        torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
    ):
        replay = filled(2, sampler=Prioritized())
        replay.sample(1)
        replay.set_priorities(np.arange(2), priority)
        seen.append(leaves(replay)[:2].tolist())
    assert seen == [seen[0]] * 4


def test_a_priority_for_an_overwritten_row_does_not_change_the_row_in_its_place() -> None:
    replay = ReplayBuffer(5, 1, (1,), torch.float32, sampler=Prioritized(alpha=1.0, eps=1e-12))
    replay.reset(np.zeros((1, 1)))
    write(replay, 0, 1, 2, 3)
    replay.sample(1)
    write(replay, 4, 5, 6)  # rows 3 to 6 are left; 5 has overwritten 0
    replay.set_priorities(np.array([0, 1, 3]), np.array([50.0, 50.0, 3.0]))
    replay.sample(1)
    assert leaves(replay)[[3, 4, 0, 1, 2]].tolist() == pytest.approx([3, 3, 3, 3, 0])
    replay.set_priorities(np.array([0, 5]), np.array([50.0, 5.0]))
    assert leaves(replay)[[3, 4, 0, 1, 2]].tolist() == pytest.approx([3, 3, 5, 3, 0])


def test_a_row_that_can_no_longer_be_sampled_gets_no_priority() -> None:
    replay = filled(4, sampler=Prioritized(alpha=1.0, eps=1e-12))
    replay.sample(1)
    replay.n_step = 3  # the windows of rows 2 and 3 are incomplete now
    replay.sample(1)
    replay.set_priorities(np.arange(4), np.full(4, 7.0))
    assert leaves(replay)[:4].tolist() == pytest.approx([7, 7, 0, 0])
    replay.n_step = 1
    replay.sample(1)
    assert leaves(replay)[:4].tolist() == pytest.approx([7, 7, 7, 7])


class Stream:
    """Random writes, restarts, values of n and priorities, with the expected priorities."""

    def __init__(self, seed: int, sampler: Prioritized) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_envs = int(self.rng.integers(1, 4))
        self.frame_stack = int(self.rng.integers(1, 5))
        slots = 8 + self.frame_stack + int(self.rng.integers(0, 12))
        self.replay = ReplayBuffer(
            slots * self.num_envs + int(self.rng.integers(0, self.num_envs)),
            self.num_envs,
            (1,),
            torch.float32,
            n_step=int(self.rng.integers(1, 7)),
            frame_stack=self.frame_stack,
            sampler=sampler,
            rng=np.random.default_rng(seed),
        )
        self.priority: dict[int, float] = {}  # expected leaf of each row
        self.max_value = 1.0
        self.replay.reset(self.obs())

    def obs(self) -> NDArray[np.float64]:
        return np.zeros((self.num_envs, 1))

    def write_one(self) -> None:
        zero, no = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        self.replay.write(zero, zero, no, no, self.obs())

    def write(self) -> None:
        for _ in range(int(self.rng.choice([0, 1, 2, 3, 40], p=[0.2, 0.4, 0.2, 0.15, 0.05]))):
            if self.rng.random() < 0.05:
                self.replay.restart_episodes(self.obs())
                continue
            ended = (self.rng.random(self.num_envs) < 0.2) & ~self.replay.pending_is_reset
            terminated = ended & (self.rng.random(self.num_envs) < 0.5)
            number = np.zeros(self.num_envs)
            self.replay.write(number, number, terminated, ended & ~terminated, self.obs())
        if self.rng.random() < 0.2:
            self.replay.n_step = int(self.rng.integers(1, 7))

    def samplable(self) -> list[int]:
        every = np.array(self.replay.rows, np.int64)
        return every[self.replay.samplable(every)].tolist() if len(every) else []

    def sample(self) -> torch.Tensor:
        rows = self.replay.sample(5).row
        now = self.samplable()
        self.priority = {row: self.priority.get(row, self.max_value) for row in now}
        assert set(rows.tolist()) <= set(now)
        return rows

    def set_random_priorities(self, rows: torch.Tensor) -> None:
        """Set priorities of the sampled rows and of four random ones, maybe repeated or invalid."""
        others = self.rng.integers(0, self.replay.rows.stop + 3, 4)
        rows = torch.cat([rows, torch.from_numpy(others)])
        priority = torch.from_numpy(self.rng.random(len(rows)) * 3)
        self.replay.set_priorities(rows, priority)
        new: dict[int, float] = {}
        for row, value in zip(rows.tolist(), priority.tolist(), strict=True):
            if row in self.priority and row >= self.replay.rows.start:
                new[row] = max(new.get(row, 0.0), value + 1e-12)
        self.priority |= new
        self.max_value = max([self.max_value, *new.values()])

    def check(self) -> None:
        wanted = np.zeros(len(leaves(self.replay)))
        for row, value in self.priority.items():
            wanted[row % len(wanted)] = value
        np.testing.assert_allclose(leaves(self.replay), wanted, rtol=1e-9)


class PrioritizedAsOnGPU(Prioritized):
    """Prioritized sampling with the data structure that is used on a GPU."""

    def reset(self, num_positions: int, device: torch.device) -> None:
        super().reset(num_positions, device)
        self._priorities = PrefixSums(num_positions, float(self._scaled_priority(1.0)))


@pytest.mark.parametrize("kind", [Prioritized, PrioritizedAsOnGPU])
@pytest.mark.parametrize("seed", range(25))
def test_a_row_has_a_priority_if_and_only_if_it_can_be_sampled(seed: int, kind: Any) -> None:
    stream = Stream(seed, kind(alpha=1.0, eps=1e-12))
    num_batches = 0
    for _ in range(60):
        stream.write()
        if not stream.samplable():
            continue
        rows = stream.sample()
        stream.check()
        if stream.rng.random() < 0.3:
            stream.write()
        stream.set_random_priorities(rows)
        num_batches += 1
    assert num_batches > 20
    assert stream.replay.rows.start > 0  # the ring has wrapped


def test_a_reset_deletes_all_priorities() -> None:
    replay = prioritized([0, 1], [5.0, 6.0])
    replay.reset(np.zeros((1, 1)))
    write(replay, 1)
    replay.sample(1)
    assert leaves(replay)[:4].tolist() == pytest.approx([1, 0, 0, 0])


def test_appended_foreign_rows_get_the_priority_of_new_rows() -> None:
    source, replay = filled(6), prioritized([0, 3], [2.0, 3.0])
    replay.append_foreign(source.read(source.times))
    replay.sample(1)
    # Rows 4 to 9 are foreign; 10 was the pending row there.
    assert leaves(replay)[:12].tolist() == pytest.approx([2, 1, 1, 3, *[3] * 6, 0, 0])


# State ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Prioritized, PrioritizedAsOnGPU])
@pytest.mark.parametrize("sampled_before", [True, False])
def test_a_restored_replay_samples_the_same_rows_as_the_saved_one(
    sampled_before: bool, kind: Any
) -> None:
    stream = Stream(3, kind(uniform_share=0.2, beta=Linear(0.4, 1.0, 100)))
    for _ in range(30):
        stream.write()
        if stream.samplable():
            rows = stream.replay.sample(5).row
            stream.replay.set_priorities(rows, torch.rand(5))
    if not sampled_before:
        stream.write_one()
    file = io.BytesIO()
    torch.save(stream.replay.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    old = stream.replay
    capacity = old.state_dict()["slots"] * old.num_envs
    new = ReplayBuffer(
        capacity,
        old.num_envs,
        (1,),
        torch.float32,
        n_step=old.n_step,
        frame_stack=old.frame_stack,
        sampler=kind(uniform_share=0.2, beta=Linear(0.4, 1.0, 100)),
    )
    new.reset(stream.obs())
    new.load_state_dict(state)
    new.load_rows(old.times, old.read(old.times))
    for i in range(10):
        ours, theirs = old.sample(7, 10 * i), new.sample(7, 10 * i)
        assert ours.row.tolist() == theirs.row.tolist()
        assert ours.weight.tolist() == theirs.weight.tolist()
        for replay in (old, new):
            replay.set_priorities(ours.row, ours.row % 5 + 0.5)
            stream.replay = replay
            stream.write_one()
    assert leaves(old).tolist() == leaves(new).tolist()


def test_rows_saved_without_priorities_get_the_priority_of_new_rows() -> None:
    uniform, replay = filled(5), ReplayBuffer(1_000, 1, (1,), torch.float32, sampler=Prioritized())
    replay.load_state_dict(uniform.state_dict())
    replay.load_rows(uniform.times, uniform.read(uniform.times))
    assert sorted(replay.sample(5).row.tolist()) == [0, 1, 2, 3, 4]
    uniform.load_state_dict(replay.state_dict())
    assert not uniform.has_priorities


def test_copies_of_a_sampler_serve_different_replays() -> None:
    sampler = Prioritized()
    first, second = (filled(n, sampler=copy.deepcopy(sampler)) for n in (3, 5))
    assert sorted(first.sample(3).row.tolist()) == [0, 1, 2]
    assert sorted(second.sample(5).row.tolist()) == [0, 1, 2, 3, 4]


# Errors ---------------------------------------------------------------------------------------


def test_an_empty_replay_and_non_finite_priorities_are_errors() -> None:
    sampler = Prioritized()
    sampler.reset(10, CPU)
    rng = np.random.default_rng(0)
    with pytest.raises(RuntimeError, match="no row of the replay"):
        sampler.sample(SamplingPool(range(0), lambda rows: rows < 0, rng), 2)
    with pytest.raises(RuntimeError, match="no row of the replay"):
        sampler.sample(SamplingPool(range(5), lambda rows: rows < 0, rng), 2)
    for wrong in (float("nan"), float("inf")):
        replay = filled(5, sampler=Prioritized())
        replay.sample(1)
        replay.set_priorities(np.array([2]), np.array([wrong]))
        with pytest.raises(NonFiniteError, match="priorities are not finite"):
            replay.sample(4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -0.1}, r"data\.replay\.sampler\.alpha: .*-0\.1"),
        ({"beta": -1.0}, r"data\.replay\.sampler\.beta: .*-1\.0 at environment step 0"),
        ({"beta": Linear(1, -1, 100)}, r"data\.replay\.sampler\.beta: .* at environment step 100"),
        (
            {"uniform_share": 1.1},
            r"data\.replay\.sampler\.uniform_share: .*1\.1",
        ),
        ({"eps": 0.0}, r"data\.replay\.sampler\.eps: .*0\.0"),
    ],
)
def test_values_out_of_range_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prioritized(**settings)


def test_a_changed_alpha_keeps_the_unscaled_priorities() -> None:
    def leaves(saved_with: float, loaded_with: float) -> torch.Tensor:
        samplers = [Prioritized(alpha=alpha) for alpha in (saved_with, loaded_with)]
        for sampler in samplers:
            sampler.reset(4, torch.device("cpu"))
        samplers[0]._priorities.set(
            np.arange(3), samplers[0]._scaled_priority(np.array([4.0, 1.0, 9.0]))
        )
        samplers[1].load_state_dict(samplers[0].state_dict())
        return samplers[1].state_dict()["leaves"]

    torch.testing.assert_close(
        leaves(0.5, 1.0), torch.tensor([4.0, 1, 9, 0]).double(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        leaves(0.5, 0.5), torch.tensor([2.0, 1, 3, 0]).double(), atol=1e-5, rtol=0
    )
