"""The shipped config of the PyTorch tutorial makes the same updates as the tutorial itself."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.helpers.tutorials.lockstep import (
    Follower,
    Recorder,
    assert_same_updates,
    max_difference,
    record,
)
from tests.helpers.tutorials.pytorch_tutorial import Tutorial

pytestmark = pytest.mark.processes  # runs whole commands

EPISODES = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Follower]:
    """Return a recorded run of the config, and the tutorial that followed it."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        flags = [
            f"--data.schedule.total_episodes={EPISODES}",
            "--data.evaluation.every_env_steps=null",
        ]
        recorder = record("pytorch_tutorial.yaml", *flags)
    env = gym.make("CartPole-v1", render_mode="rgb_array").unwrapped
    follower = Follower(env, recorder)
    tutorial = Tutorial(follower, follower.explore, follower.draw, follower.keep)
    follower.follow(tutorial, tutorial.policy_net, tutorial.target_net)
    tutorial.play(EPISODES, recorder.seeds[0])
    return recorder, follower


def test_every_action_is_the_same(runs: tuple[Recorder, Follower]) -> None:
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
    assert ours.collector.progress.clock[:2] == (steps, EPISODES)
    assert len(ours.updates.losses) == len(plain.updates.losses) == steps - 127
    rows = np.arange(ours.replay.rows.stop)
    assert len(rows) == steps + EPISODES - 1  # one reset row between two episodes
    assert int(ours.replay.samplable(rows).sum()) == len(plain.tutorial.memory) == steps
    assert ours.replay.current_obs().dtype == np.uint8


def test_every_update_is_the_same(runs: tuple[Recorder, Follower]) -> None:
    """Compare losses, clamped gradients, weights, batch norm statistics and target networks."""
    ours, plain = runs
    assert len(plain.updates.losses) > 100
    assert_same_updates(ours.updates, plain.updates)


def test_batches_are_sampled_without_replacement(runs: tuple[Recorder, Follower]) -> None:
    assert all(len(set(rows)) == len(rows) == 128 for rows in runs[0].rows)


def test_the_compared_values_change_during_the_run(runs: tuple[Recorder, Follower]) -> None:
    """Otherwise, comparing them would show nothing."""
    ours, plain = runs
    updates = plain.updates
    largest = max(float(g.abs().max()) for gradients in updates.gradients for g in gradients)
    assert largest == 1.0  # clamped
    assert max_difference(updates.target[0].values(), updates.target[-1].values()) > 0.1
    means = [name for name in updates.before[0] if "running_mean" in name]
    assert len(means) == 3
    for update in range(20):  # acting greedily updates the batch norm statistics
        before, after = updates.before[update + 1], updates.after[update]
        changed = max_difference((before[n] for n in means), (after[n] for n in means)) > 0
        assert changed == (not ours.explored[128 + update])


def test_the_target_is_copied_after_the_first_and_the_eleventh_episode(
    runs: tuple[Recorder, Follower],
) -> None:
    ours, plain = runs
    first, second = ours.syncs
    assert (first.episodes, first.grad_steps) == (1, 0)
    # No update is due yet, so the copy is made before the next greedy action.
    assert all(ours.explored[plain.tutorial.durations[0] : first.env_steps])
    steps = sum(plain.tutorial.durations[:11])
    assert second == (steps, 11, steps - 127)


def test_epsilon_follows_the_schedule_of_the_tutorial(runs: tuple[Recorder, Follower]) -> None:
    schedule = runs[0].datamodule.exploration.epsilon
    expected = {0: 0.9, 200: 0.3626975, 1_000: 0.05572726}
    for env_steps, epsilon in expected.items():
        assert schedule(env_steps) == pytest.approx(epsilon, abs=1e-7)


def test_only_evaluation_environments_have_a_time_limit(runs: tuple[Recorder, Follower]) -> None:
    data = runs[0].datamodule
    assert data.collectors.env_factory.make().spec.max_episode_steps is None
    assert data.collectors.eval_env_factory.make().spec.max_episode_steps == 500
