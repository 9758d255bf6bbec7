"""The shipped config of the PyTorch tutorial against the tutorial, written plainly."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.tutorials.lockstep import (
    Follower,
    Recorder,
    assert_same_updates,
    largest_difference,
    record,
)
from tests.tutorials.pytorch_tutorial import Tutorial

EPISODES = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Follower]:
    """Ours, and the plain one that went the same way."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        flags = [f"--data.total_episodes={EPISODES}", "--data.eval_every_env_steps=null"]
        recorder = record("pytorch_tutorial.yaml", *flags)
    env = gym.make("CartPole-v1", render_mode="rgb_array").unwrapped
    follower = Follower(env, recorder)
    tutorial = Tutorial(follower, follower.explore, follower.draw, follower.keep)
    follower.follow(tutorial, tutorial.policy_net, tutorial.target_net)
    tutorial.play(EPISODES, recorder.seeds[0])
    return recorder, follower


def test_every_choice_is_the_same(runs: tuple[Recorder, Follower]) -> None:
    ours, plain = runs
    assert ours.actions == plain.actions
    assert ours.epsilons == pytest.approx(plain.epsilons, abs=1e-12)
    assert 20 < sum(ours.explored) < len(ours.explored) - 20


def test_steps_updates_and_stored_rows_after_twelve_episodes(
    runs: tuple[Recorder, Follower],
) -> None:
    ours, plain = runs
    steps = sum(plain.tutorial.durations)
    assert len(plain.tutorial.durations) == EPISODES
    assert ours.collector.counts == (steps, EPISODES)
    assert len(ours.updates.losses) == len(plain.updates.losses) == steps - 127
    rows = np.arange(ours.replay.rows.stop)
    assert len(rows) == steps + EPISODES - 1  # a row between two episodes
    assert int(ours.replay.drawable(rows).sum()) == len(plain.tutorial.memory) == steps
    assert ours.replay.current_obs().dtype == np.uint8


def test_every_update_is_the_same(runs: tuple[Recorder, Follower]) -> None:
    """Loss, clamped gradients, weights, statistics of BatchNorm, target: the whole run through."""
    ours, plain = runs
    assert len(plain.updates.losses) > 100
    assert_same_updates(ours.updates, plain.updates)


def test_batches_are_drawn_without_replacement(runs: tuple[Recorder, Follower]) -> None:
    assert all(len(set(rows)) == len(rows) == 128 for rows in runs[0].rows)


def test_what_is_compared_moves(runs: tuple[Recorder, Follower]) -> None:
    """Or else that nothing differs would say little."""
    ours, plain = runs
    updates = plain.updates
    largest = max(float(g.abs().max()) for gradients in updates.gradients for g in gradients)
    assert largest == 1.0  # clamped
    assert largest_difference(updates.target[0].values(), updates.target[-1].values()) > 0.1
    means = [name for name in updates.before[0] if "running_mean" in name]
    assert len(means) == 3
    for update in range(20):  # acting moves BatchNorm's statistics, if the network is asked
        before, after = updates.before[update + 1], updates.after[update]
        moved = largest_difference((before[n] for n in means), (after[n] for n in means)) > 0
        assert moved == (not ours.explored[128 + update])


def test_the_target_is_copied_after_the_first_and_the_eleventh_episode(
    runs: tuple[Recorder, Follower],
) -> None:
    ours, plain = runs
    first, second = ours.syncs
    assert (first.episodes, first.grad_steps) == (1, 0)
    # No update follows the first one yet, so it waits until the network is asked again.
    assert all(ours.explored[plain.tutorial.durations[0] : first.env_steps])
    steps = sum(plain.tutorial.durations[:11])
    assert second == (steps, 11, steps - 127)


def test_epsilon(runs: tuple[Recorder, Follower]) -> None:
    schedule = runs[0].datamodule.epsilon
    expected = {0: 0.9, 200: 0.3626975, 1_000: 0.05572726}
    for choices, epsilon in expected.items():
        assert schedule(choices) == pytest.approx(epsilon, abs=1e-7)


def test_training_has_no_time_limit_and_evaluation_has(runs: tuple[Recorder, Follower]) -> None:
    data = runs[0].datamodule
    assert data.factory.make().spec.max_episode_steps is None
    assert data.eval_factory.make().spec.max_episode_steps == 500
