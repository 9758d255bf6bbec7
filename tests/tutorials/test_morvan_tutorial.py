"""The shipped configs of MorvanZhou's tutorial make the same updates as the tutorial itself.

Hundreds of consecutive updates are compared in double precision. In single precision, rounding
errors, which depend on the order of operations, exceed 1e-6 after a few hundred updates.
"""

from typing import TypeAlias

import gymnasium as gym
import pytest
import torch

from tests.helpers.tutorials.lockstep import Follower, Recorder, assert_same_updates, record
from tests.helpers.tutorials.morvan_tutorial import Tutorial

pytestmark = pytest.mark.processes  # runs whole commands

EPISODES = 260  # of about ten steps each with an untrained network; learning starts after 2,000
SHAPED, AS_PRINTED = "morvan_tutorial.yaml", "morvan_tutorial_as_printed.yaml"


Runs: TypeAlias = tuple[Recorder, Follower]


def run_both(config: str, precision: str, episodes: int) -> Runs:
    """Return a recorded run of a config, and the tutorial that followed it."""
    flags = [f"--data.schedule.total_episodes={episodes}", f"--trainer.precision={precision}"]
    recorder = record(config, *flags, "--data.evaluation.every_env_steps=null")
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if precision == "64-true" else torch.float32)
    try:
        follower = Follower(gym.make("CartPole-v1").unwrapped, recorder)
        shaped = config == SHAPED
        tutorial = Tutorial(follower, follower.explore, follower.draw, shaped, follower.keep)
        follower.follow(tutorial, tutorial.eval_net, tutorial.target_net)
        tutorial.play(episodes, recorder.seeds[0])
    finally:
        torch.set_default_dtype(dtype)
    return recorder, follower


@pytest.fixture(scope="module", params=[SHAPED, AS_PRINTED])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a recorded run and the tutorial over many updates, in double precision."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        return run_both(request.param, "64-true", EPISODES)


def test_every_action_is_the_same(runs: Runs) -> None:
    ours, plain = runs
    assert ours.actions == plain.actions
    for env_steps in (0, 200, 1_000):
        assert ours.epsilons[env_steps] == pytest.approx(1 - plain.epsilons[env_steps])
    assert 0.08 < sum(ours.explored) / len(ours.explored) < 0.12


def test_every_update_is_the_same(runs: Runs) -> None:
    """Compare losses, gradients, weights and target networks."""
    ours, plain = runs
    assert len(plain.updates.losses) > 200
    assert_same_updates(ours.updates, plain.updates)


@pytest.mark.parametrize("config", [SHAPED, AS_PRINTED])
def test_the_first_ten_updates_are_the_same_in_the_precision_of_the_config(config: str) -> None:
    ours, plain = run_both(config, "32-true", episodes=220)
    count = len(plain.updates.losses)
    assert 10 < count < 500
    for updates in (ours.updates, plain.updates):
        for values in vars(updates).values():
            del values[10:]
    assert_same_updates(ours.updates, plain.updates)


def test_the_target_is_copied_before_every_hundredth_update(runs: Runs) -> None:
    ours, plain = runs
    copied_before = [clock.grad_steps for clock in ours.syncs]
    if ours.clock.grad_steps % 100 == 0:  # ours copies after an update, not before
        copied_before.pop()
    assert copied_before == plain.tutorial.copied_before
    assert copied_before[:3] == [0, 100, 200]


def test_lengths_and_returns_of_episodes_are_those_of_the_tutorial(runs: Runs) -> None:
    ours, plain = runs
    log = next(c for c in ours.callbacks if hasattr(c, "returns"))
    assert log.lengths == plain.tutorial.durations
    assert log.returns == pytest.approx(plain.tutorial.returns)


@pytest.mark.parametrize("config", [SHAPED, AS_PRINTED])
def test_steps_updates_and_stored_rows_after_twelve_episodes(config: str) -> None:
    ours = record(config, "--data.schedule.total_episodes=12")
    steps = len(ours.actions)
    assert ours.collector.progress.clock[:2] == (steps, 12)
    assert ours.updates.losses == []  # learning starts after 2,000 transitions
    assert len(ours.replay.rows) == steps + 11  # one reset row between two episodes


def test_learning_starts_at_transition_2001(runs: Runs) -> None:
    ours, plain = runs
    steps = sum(plain.tutorial.durations)
    assert ours.collector.progress.clock[:2] == (steps, EPISODES)
    assert len(ours.updates.losses) == len(plain.updates.losses) == steps - 2_000
    assert len(ours.replay.rows) == 1_999  # and the pending row; the tutorial stores 2,000


def test_batches_are_sampled_with_replacement(runs: Runs) -> None:
    assert {len(rows) for rows in runs[0].rows} == {32}
    assert any(len(set(rows)) < 32 for rows in runs[0].rows)


def test_initial_weights_are_normally_distributed(runs: Runs) -> None:
    initial = runs[0].initial
    weights = [value for name, value in initial.items() if name.endswith("weight")]
    assert [tuple(weight.shape) for weight in weights] == [(10, 4), (2, 10)]
    values = torch.cat([weight.flatten() for weight in weights])  # 60 weights
    assert 0.07 < values.std() < 0.13
    assert values.mean().abs() < 0.05
