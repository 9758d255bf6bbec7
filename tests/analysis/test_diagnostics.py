"""Diagnostics compared with values computed by hand and with naive implementations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dqn_lightning import ConfigError
from dqn_lightning.analysis import diagnostics
from dqn_lightning.callbacks import Diagnostics
from dqn_lightning.interaction.evaluation import Evaluation
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen
from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.replay import Prioritized, ReplayBuffer, Uniform
from dqn_lightning.types import Batch, UpdateNoise
from tests.helpers.settings import make_datamodule
from tests.helpers.toy import Walk
from tests.helpers.training import Recorder, equal, make, train, weights


def always_action_2(obs: Any) -> Any:
    return np.full(len(obs), 2)


def record_states(num_states: int, num_envs: int, episodes: int) -> diagnostics.StateRecorder:
    states = diagnostics.StateRecorder(num_states)
    collector = partial(make_datamodule("toy/Walk-v0").eval_collector, epsilon=0.0)
    evaluation = Evaluation(collector, num_envs=num_envs, episodes=episodes, seed=5, max_steps=99)
    evaluation.on_step = states.record
    evaluation(always_action_2)
    return states


def test_states_and_returns_equal_those_of_a_naive_implementation() -> None:
    gamma, expected = 0.8, {}
    env = Walk()
    for seed in (5, *[None] * 8):
        obs, _ = env.reset(seed=seed)
        seen, rewards, terminated, truncated = [], [], False, False
        while not (terminated or truncated):
            seen.append(tuple(obs.tolist()))
            obs, reward, terminated, truncated, _ = env.step(2)
            rewards.append(reward)
        for i, state in enumerate(seen):
            value = sum(gamma**j * reward for j, reward in enumerate(rewards[i:]))
            expected[state] = (value, 0.0 if terminated else gamma ** (len(seen) - i))
    expected.pop((0.0, 0.0))  # before the first step
    obs, returns, tail_discounts = record_states(10_000, num_envs=1, episodes=9).finish(gamma)
    found = dict(
        zip(map(tuple, obs.tolist()), zip(returns, tail_discounts, strict=True), strict=True)
    )
    assert found.keys() == expected.keys()
    assert len(found) > 20
    for state, numbers in expected.items():
        assert found[state] == pytest.approx(numbers), state
    assert {tail == 0 for _, tail in expected.values()} == {True, False}


@pytest.mark.parametrize("num_envs", [1, 3])
def test_at_most_num_states_are_kept_evenly_spaced_over_the_evaluation(num_envs: int) -> None:
    obs, _, _ = record_states(20, num_envs, episodes=90).finish(0.9)
    assert 5 <= len(obs) <= 20
    episodes = obs[:, 0]
    assert episodes.min() < 10 < 20 < episodes.max()


def test_an_evaluation_of_one_step_has_no_states_with_returns() -> None:
    collector = make_datamodule("toy/Walk-v0").eval_collector(1, epsilon=0.0)
    collector.reset(0)
    states = diagnostics.StateRecorder(4)
    collector.step(always_action_2)
    states.record(collector)
    assert [len(part) for part in states.finish(0.9)] == [0, 0, 0]


def test_tails_are_the_discount_of_the_unknown_rest_after_truncation() -> None:
    reward = np.array([[1.0], [2.0], [4.0], [8.0]])
    none = np.zeros((4, 1), bool)
    truncated = np.array([[False], [True], [False], [False]])
    returns, tail_discounts = diagnostics.returns_to_go(reward, none, truncated, gamma=0.5)
    assert returns.ravel().tolist() == [2.0, 2.0, 8.0, 8.0]
    assert tail_discounts.ravel().tolist() == [0.25, 0.5, 0.25, 0.5]


def test_dormant_units_are_counted_over_all_layers_and_per_channel() -> None:
    linear = torch.tensor([[10.0, 1.0, 0.0], [10.0, 0.0, 0.0]])  # means 10, 0.5, 0; threshold 0.35
    images = torch.zeros(1, 2, 2, 2)
    images[0, 0] = 1.0  # the other channel is 0
    assert diagnostics.dormant_share([linear]) == pytest.approx(1 / 3)
    assert diagnostics.dormant_share([images]) == 0.5
    assert diagnostics.dormant_share([linear, images]) == 0.4
    assert diagnostics.dormant_share([torch.zeros(3, 2)]) == 1.0


def test_equal_features_have_effective_rank_1_and_random_features_full_rank() -> None:
    torch.manual_seed(0)
    assert diagnostics.effective_rank(torch.ones(9, 4)) == 1
    assert diagnostics.effective_rank(torch.randn(500, 20)) == 20
    assert diagnostics.effective_rank(torch.randn(500, 20).half()) == 20
    assert np.isnan(diagnostics.effective_rank(torch.full((5, 2), float("nan"))))


def test_normalized_entropy_matches_a_value_computed_by_hand() -> None:
    # -(3/4 log2 3/4 + 1/4 log2 1/4)
    assert diagnostics.normalized_entropy(np.array([0.75, 0.25])) == pytest.approx(0.811278)
    assert diagnostics.normalized_entropy(np.array([1.0, 0.0])) == 1.0


def test_the_relative_distance_matches_a_value_computed_by_hand() -> None:
    online, target = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        online.weight.copy_(torch.tensor([[6.0, 8.0]]))
        target.weight.copy_(torch.tensor([[3.0, 4.0]]))
    assert diagnostics.relative_distance(online, target) == 0.5
    assert diagnostics.relative_distance(online, online) == 0


def make_network(**settings: Any) -> QNetwork:
    torch.manual_seed(0)
    return QNetwork((3,), 2, partial(MLP, widths=(5, 4)), ValueHead, **settings)


def test_the_gradient_norm_equals_that_of_a_backward_pass_and_stores_no_gradients() -> None:
    online, target = make_network(), make_network()
    batch = Batch(
        torch.randn(6, 3),
        torch.tensor([0, 1, 0, 1, 0, 1]),
        torch.randn(6),
        torch.full((6,), 0.9),
        torch.randn(6, 3),
        torch.ones(6),
        torch.arange(6),
    )
    norm = diagnostics.gradient_norm(online, target, DQN(), batch, None)
    assert all(parameter.grad is None for parameter in online.parameters())
    DQN()(online, target, batch, UpdateNoise()).loss.mean().backward()
    squares = sum(float(p.grad.square().sum()) for p in online.parameters() if p.grad is not None)
    assert norm == pytest.approx(squares**0.5)


def test_a_forward_pass_returns_all_activations_and_the_features() -> None:
    online = make_network()
    obs = torch.randn(7, 3)
    output, activations, features = diagnostics.forward_with_activations(online, obs)
    assert [tuple(layer.shape) for layer in activations] == [(7, 5), (7, 4)]
    assert torch.equal(features, activations[-1])
    assert torch.equal(output.q_values, online(obs).q_values)
    assert not any(module._forward_hooks for module in online.modules())


# Sampling probabilities of rows ----------------------------------------------------------------


def replay_with(sampler: Any) -> ReplayBuffer:
    """Rows 0 to 4, where row 2 is a reset row and row 4 the newest."""
    replay = ReplayBuffer(100, 1, (1,), torch.float32, sampler=sampler)
    obs = np.zeros((1, 1))
    replay.reset(obs)
    for ends in (False, True, False, False, False):
        replay.write(np.zeros(1), np.zeros(1), np.array([ends]), np.array([False]), obs)
    return replay


def test_uniform_probabilities_are_0_for_rows_that_cannot_be_sampled() -> None:
    assert replay_with(Uniform()).probabilities().tolist() == [0.25, 0.25, 0, 0.25, 0.25]


@pytest.mark.parametrize("uniform_share", [0.0, 0.2])
def test_probabilities_are_proportional_to_priorities_and_0_for_newer_rows(
    uniform_share: float,
) -> None:
    sampler = Prioritized(alpha=1.0, eps=1e-12, uniform_share=uniform_share)
    replay = replay_with(sampler)
    assert not replay.probabilities().any()  # before the first draw
    replay.sample(1)
    replay.set_priorities(np.array([0, 4]), np.array([3.0, 5.0]))
    state = replay.state_dict()
    expected = [0.3, 0.1, 0, 0.1, 0.5]
    mixed = [(1 - uniform_share) * p + uniform_share / 4 * (p > 0) for p in expected]
    assert replay.probabilities() == pytest.approx(mixed)
    none = np.array([False])
    replay.write(np.zeros(1), np.zeros(1), none, none, np.zeros((1, 1)))
    assert replay.probabilities() == pytest.approx([*mixed, 0.0])
    assert torch.equal(replay.state_dict()["sampler"]["leaves"], state["sampler"]["leaves"])


# The callback -----------------------------------------------------------------------------------


def logged_by(module: Any, data: Any, *callbacks: Any) -> dict[tuple[int, str], float]:
    """Return what a run logs: (environment steps, name) → value."""
    recorder = Recorder()
    train(module, data, *callbacks, logger=recorder)
    return {(env_steps, name): value for env_steps, name, value in recorder.rows}


OBJECTIVES: dict[str, Callable[[], Any]] = {
    "dqn": DQN,
    "rescaled": partial(DQN, rescaled=True),
    "munchausen": partial(DQN, munchausen=Munchausen()),
    "c51": partial(C51, v_min=0.0, v_max=50.0),
    "qrdqn": QRDQN,
    "iqn": IQN,
}
NAMES = {
    "q_mean",
    "q_max",
    "return_mean",
    "overestimation",
    "dormant_share",
    "effective_rank",
    "row_age_mean",
    "gradient_norm",
    "target_distance",
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_diagnostics_do_not_change_the_run_and_are_logged_at_every_evaluation(name: str) -> None:
    runs = []
    for callbacks in ([], [Diagnostics(num_states=50)]):
        settings = {"objective": OBJECTIVES[name](), "noisy": name == "iqn"}
        module, data = make(module=settings, eval_every_env_steps=40, sampler=Prioritized())
        values = logged_by(module, data, *callbacks)
        runs.append((weights(module), values))
    (plain, plain_values), (watched, values) = runs
    assert equal(plain, watched)
    ours = {key: value for key, value in values.items() if key[1].startswith("diagnostics/")}
    assert {k: v for k, v in values.items() if k not in ours} == plain_values
    first, *_, last = sorted({env_steps for env_steps, _ in ours})
    assert (first, last % 40) == (40, 0)
    at_last = {key[1].removeprefix("diagnostics/"): v for key, v in ours.items() if key[0] == last}
    assert at_last.keys() == NAMES | {"priority_entropy"}
    assert at_last["overestimation"] == pytest.approx(at_last["q_mean"] - at_last["return_mean"])
    assert 0 < at_last["priority_entropy"] <= 1
    assert at_last["gradient_norm"] > 0
    assert 0 < at_last["row_age_mean"] < last


def test_rescaled_action_values_are_logged_on_the_scale_of_returns() -> None:
    q_max = {}
    for rescaled in (False, True):
        still = partial(torch.optim.SGD, lr=0.0)
        settings = {"objective": DQN(rescaled=rescaled), "optimizer": still}
        module, data = make(module=settings, eval_every_env_steps=60, total_env_steps=60)
        with torch.no_grad():
            for parameter in module.online.head.parameters():
                parameter.zero_()
            list(module.online.head.parameters())[-1].fill_(3.0)
        module.target.load_state_dict(module.online.state_dict())
        q_max[rescaled] = logged_by(module, data, Diagnostics())[60, "diagnostics/q_max"]
    assert q_max[False] == 3.0
    assert q_max[True] == pytest.approx(14.881, abs=1e-3)  # sqrt(15.881) - 1 + 0.0149 = 3


def test_diagnostic_returns_use_the_scaled_rewards_of_the_replay() -> None:
    returns = []
    for scale in (1.0, 0.25):
        still = {"optimizer": partial(torch.optim.SGD, lr=0.0)}
        module, data = make(module=still, reward_scale=scale, eval_every_env_steps=60)
        values = logged_by(module, data, Diagnostics())
        assert values[60, "eval/return_mean"] > 5  # unscaled
        returns.append(values[60, "diagnostics/return_mean"])
    assert returns[1] == pytest.approx(returns[0] / 4)


def test_zero_states_disable_diagnostics_and_negative_numbers_are_rejected() -> None:
    module, data = make(eval_every_env_steps=40)
    values = logged_by(module, data, Diagnostics(num_states=0))
    assert not any(name.startswith("diagnostics/") for _, name in values)
    with pytest.raises(ConfigError, match=r"diagnostics\.num_states: must not be negative, got -1"):
        Diagnostics(num_states=-1)
