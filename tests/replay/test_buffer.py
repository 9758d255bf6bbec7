import numpy as np
import pytest
import torch

from dqn_lightning import Linear
from dqn_lightning.replay import ReplayBuffer, Storage
from tests.helpers.naive_replay import NaiveReplay


class Stream:
    """Random episodes in several environments, written to a replay and to naive ones."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_envs = int(self.rng.integers(1, 5))
        n_step, frame_stack = int(self.rng.integers(1, 8)), int(self.rng.integers(1, 5))
        slots = n_step + frame_stack + 1 + int(self.rng.integers(0, 12))
        self.gamma = float(self.rng.uniform(0.5, 1.0))
        self.end_probability = float(self.rng.choice([0.05, 0.3, 0.8]))
        self.replay = ReplayBuffer(
            slots * self.num_envs + int(self.rng.integers(0, self.num_envs)),
            self.num_envs,
            (1,),
            torch.float32,
            gamma=self.gamma,
            n_step=n_step,
            frame_stack=frame_stack,
        )
        self.naive_replays = [
            NaiveReplay(slots, self.gamma, n_step, frame_stack) for _ in range(self.num_envs)
        ]
        self.number = 0.0
        obs = self.new_obs()
        self.replay.reset(obs)
        for naive, o in zip(self.naive_replays, obs[:, 0], strict=True):
            naive.reset(float(o))

    def new_obs(self) -> np.ndarray:
        """Return unique observations [N, 1], so that every mix-up is detected."""
        numbers = self.number + np.arange(self.num_envs, dtype=np.float32)
        self.number += self.num_envs
        return numbers[:, None]

    def step(self) -> None:
        if self.rng.random() < 0.03:
            obs = self.new_obs()
            self.replay.restart_episodes(obs)
            for naive, o in zip(self.naive_replays, obs[:, 0], strict=True):
                naive.restart_episodes(float(o))
            return
        is_reset = self.replay.pending_is_reset
        action = self.rng.integers(0, 4, self.num_envs)
        reward = self.rng.normal(size=self.num_envs).astype(np.float32) * ~is_reset
        ended = (self.rng.random(self.num_envs) < self.end_probability) & ~is_reset
        terminated = ended & (self.rng.random(self.num_envs) < 0.5)
        truncated = ended & ~terminated
        if self.rng.random() < 0.1:  # an environment may report both
            truncated |= terminated
        obs = self.new_obs()
        self.replay.write(action, reward, terminated, truncated, obs)
        for i, naive in enumerate(self.naive_replays):
            naive.write(
                int(action[i]),
                float(reward[i]),
                bool(terminated[i]),
                bool(truncated[i]),
                float(obs[i, 0]),
            )

    def change_n(self) -> None:
        n_step = int(self.rng.integers(1, 8))
        self.replay.n_step = n_step
        for naive in self.naive_replays:
            naive.n = n_step

    def check(self) -> int:
        """Compare all samplable rows with the naive replays; return their number."""
        every = np.array(self.replay.rows, np.int64)
        rows = every[self.replay.samplable(every)] if len(every) else every
        wanted = {
            t * self.num_envs + i
            for i, naive in enumerate(self.naive_replays)
            for t in range(len(naive.rows))
            if naive.samplable(t)
        }
        assert set(rows.tolist()) == wanted
        if not len(rows):
            return 0
        batch = self.replay.gather(rows)
        naive_rows = [
            self.naive_replays[row % self.num_envs].transition(row // self.num_envs)
            for row in rows.tolist()
        ]
        for name in ("obs", "action", "next_obs"):
            assert getattr(batch, name).tolist() == [row[name] for row in naive_rows], name
        for name in ("reward", "discount"):
            wanted_values = torch.tensor([row[name] for row in naive_rows])
            torch.testing.assert_close(getattr(batch, name), wanted_values, rtol=1e-5, atol=1e-5)
        assert batch.row.tolist() == rows.tolist()
        assert (batch.weight == 1).all()
        return len(rows)


@pytest.mark.parametrize("seed", range(60))
def test_after_every_write_all_samplable_rows_equal_those_of_the_naive_replays(seed: int) -> None:
    stream = Stream(seed)
    compared = 0
    for i in range(70):
        stream.step()
        if i % 23 == 22:
            stream.change_n()
        compared += stream.check()
        current = stream.replay.current_obs()
        wanted = [
            [naive.obs(t) for t in naive.stack(len(naive.rows))] for naive in stream.naive_replays
        ]
        assert current.tolist() == wanted
    assert compared > 0


def test_a_truncated_episode_bootstraps_from_its_own_last_observation() -> None:
    replay = ReplayBuffer(20, 1, (1,), torch.float32, gamma=0.5)
    one, no, yes = np.ones(1), np.array([False]), np.array([True])
    replay.reset(np.array([[10.0]]))
    replay.write(one, one, no, yes, np.array([[11.0]]))  # truncated: 11 is the last observation
    replay.write(
        one, one * 0, no, no, np.array([[20.0]])
    )  # the reset row; 20 is the next episode's first observation
    batch = replay.gather(np.array([0]))
    assert (batch.obs.item(), batch.next_obs.item(), batch.discount.item()) == (10.0, 11.0, 0.5)
    assert replay.samplable(np.array([0, 1])).tolist() == [True, False]


def test_the_discount_is_0_after_a_terminal_state() -> None:
    replay = ReplayBuffer(20, 1, (1,), torch.float32, gamma=0.5, n_step=3)
    one, no, yes = np.ones(1), np.array([False]), np.array([True])
    replay.reset(np.zeros((1, 1)))
    replay.write(one, one, no, no, np.ones((1, 1)))
    replay.write(one, one, yes, no, np.ones((1, 1)))
    batch = replay.gather(np.array([0, 1]))
    assert batch.reward.tolist() == [1.5, 1.0]
    assert batch.discount.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("n_step", "discounts"), [(1, [0.5, 0.5]), (3, [0.25, 0.5])])
def test_terminal_states_are_bootstrapped_from_only_on_request(
    n_step: int, discounts: list[float]
) -> None:
    replay = ReplayBuffer(
        20, 1, (1,), torch.float32, gamma=0.5, n_step=n_step, bootstrap_terminal=True
    )
    one, no, yes = np.ones(1), np.array([False]), np.array([True])
    replay.reset(np.array([[10.0]]))
    replay.write(one, one, no, no, np.array([[11.0]]))
    replay.write(one, one, yes, no, np.array([[12.0]]))
    replay.write(one, one * 0, no, no, np.array([[20.0]]))
    batch = replay.gather(np.array([0, 1]))
    assert batch.discount.tolist() == discounts
    assert batch.next_obs.flatten().tolist() == [11.0 if n_step == 1 else 12.0, 12.0]


def test_observations_keep_their_dtype_and_images_are_stacked_along_channels() -> None:
    replay = ReplayBuffer(20, 2, (3, 4, 5), torch.uint8, frame_stack=2)
    first = np.full((2, 3, 4, 5), 7, np.uint8)
    replay.reset(first)
    assert replay.current_obs().shape == (2, 6, 4, 5)
    nothing = np.zeros(2, bool)
    replay.write(np.zeros(2), np.zeros(2), nothing, nothing, first + 1)
    assert replay.current_obs().dtype == np.uint8
    assert replay.current_obs()[0, :, 0, 0].tolist() == [7, 7, 7, 8, 8, 8]


def test_the_newest_transition_can_be_sampled_immediately() -> None:
    replay = ReplayBuffer(20, 1, (1,), torch.float32)
    no = np.array([False])
    replay.reset(np.zeros((1, 1)))
    replay.write(np.ones(1), np.ones(1), no, no, np.ones((1, 1)))
    assert replay.sample(1).next_obs.item() == 1.0


def test_a_replay_too_small_for_its_window_is_refused() -> None:
    with pytest.raises(ValueError, match="n_step 3 and frame_stack 4 need 8"):
        ReplayBuffer(7, 1, (1,), torch.float32, n_step=3, frame_stack=4)


def test_num_bytes_equals_the_memory_of_the_columns() -> None:
    storage = Storage(1_000, 1, (84, 84), torch.uint8)
    allocated = sum(column.numel() * column.element_size() for column in storage._columns.values())
    assert Storage.num_bytes(1_000, (84, 84), torch.uint8) == allocated


@pytest.mark.parametrize("n_step", [2, 5])
def test_n_step_transitions_are_folded_one_step_transitions(n_step: int) -> None:
    """Reward and discount equal r + d (r' + d' (r'' + …)) of one-step transitions."""
    stream = Stream(4)
    for _ in range(40):
        stream.step()
    replay = stream.replay
    replay.n_step = n_step
    every = np.array(replay.rows)
    rows = every[replay.samplable(every)]
    several = replay.gather(rows)
    replay.n_step = 1
    reward, discount = np.zeros(len(rows)), np.ones(len(rows))
    for i, row in enumerate(rows):
        for j in range(n_step):
            one = replay.gather(np.array([row + j * replay.num_envs]))
            reward[i] += discount[i] * one.reward.item()
            discount[i] *= one.discount.item()
            position = (row + j * replay.num_envs) % (replay._slots * replay.num_envs)
            if replay._storage.gather("truncated", position):
                break  # the next episode does not count
    assert len(rows) > 10
    np.testing.assert_allclose(several.reward.numpy(), reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(several.discount.numpy(), discount, rtol=1e-5)


def test_n_step_follows_its_rounded_schedule_when_a_batch_is_sampled() -> None:
    replay = ReplayBuffer(20, 1, (1,), torch.float32, gamma=0.5, n_step=Linear(1, 3, steps=100))
    no = np.array([False])
    replay.reset(np.zeros((1, 1)))
    for _ in range(6):
        replay.write(np.ones(1), np.ones(1), no, no, np.ones((1, 1)))
    assert replay.n_step == 1
    for env_steps, n_step in ((0, 1), (24, 1), (26, 2), (74, 2), (76, 3), (900, 3)):
        batch = replay.sample(50, env_steps)
        assert replay.n_step == n_step
        assert set(batch.discount.tolist()) == {0.5**n_step}
        assert batch.row.max().item() == 6 - n_step
    replay.n_step = 2  # until the next batch, where the schedule applies again
    assert replay.sample(1, 0).discount.item() == 0.5


def test_a_scheduled_n_step_that_becomes_too_large_is_an_error() -> None:
    replay = ReplayBuffer(6, 1, (1,), torch.float32, n_step=Linear(1, 9, steps=8))
    no = np.array([False])
    replay.reset(np.zeros((1, 1)))
    for _ in range(6):
        replay.write(np.ones(1), np.ones(1), no, no, np.ones((1, 1)))
    replay.sample(1, env_steps=3)
    with pytest.raises(ValueError, match="n_step 5 and frame_stack 1 need 7"):
        replay.sample(1, env_steps=4)


@pytest.mark.parametrize("num_foreign", [1, 3])
def test_rows_beyond_the_pending_row_are_refused(num_foreign: int) -> None:
    def replay_of(num_steps: int) -> ReplayBuffer:
        replay = ReplayBuffer(20, 1, (1,), torch.float32)
        no = np.array([False])
        replay.reset(np.zeros((1, 1)))
        for i in range(num_steps):
            replay.write(np.ones(1), np.ones(1), no, no, np.full((1, 1), i))
        return replay

    saved, longer_run, restored = replay_of(4), replay_of(4 + num_foreign), replay_of(0)
    restored.load_state_dict(saved.state_dict())
    times = longer_run.times
    with pytest.raises(ValueError, match=f"step 4.*step {4 + num_foreign}.*another run"):
        restored.load_rows(times, longer_run.read(times))
    restored.load_rows(saved.times, saved.read(saved.times))
    assert restored.gather(np.arange(4)).next_obs.flatten().tolist() == [0, 1, 2, 3]
