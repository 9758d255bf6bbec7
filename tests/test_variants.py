"""Every pair of optional methods either trains with each engine or is rejected with a reason."""

from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch

from dqn_lightning import ConfigError, DQNModule
from dqn_lightning.losses import C51, DQN, QRDQN
from dqn_lightning.networks import QuantileHead, ValueHead
from tests.helpers.variants import MODULE_ARGS, OBJECTIVE_ARGS, OBJECTIVES, REPLAY_ARGS, train

METHODS = [*OBJECTIVES, *OBJECTIVE_ARGS, *MODULE_ARGS, *REPLAY_ARGS]
REJECTED = {
    ("c51", "munchausen"): (TypeError, "munchausen"),
    ("c51", "rescaled"): (TypeError, "rescaled"),
    ("qrdqn", "rescaled"): (TypeError, "rescaled"),
    ("iqn", "rescaled"): (TypeError, "rescaled"),
    ("double", "munchausen"): (ConfigError, "double.* munchausen"),
    ("munchausen", "rescaled"): (ConfigError, "munchausen.* rescaled"),
    ("munchausen", "n_step"): (ConfigError, r"data\.replay\.n_step: .* got 3"),
    ("munchausen", "scheduled n_step"): (ConfigError, r"data\.replay\.n_step: .* got 5"),
}
PAIRS = [
    pair
    for pair in combinations(METHODS, 2)
    if not set(pair) <= set(OBJECTIVES)  # a run has one objective
    and pair != ("n_step", "scheduled n_step")
]


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_pairs_of_methods_train_equally_with_each_engine_or_are_rejected(
    pair: tuple[str, str],
) -> None:
    if pair in REJECTED:
        error, message = REJECTED[pair]
        with pytest.raises(error, match=message):
            train(pair, "eager")
        return
    eager, recorded = (train(pair, engine).online.state_dict() for engine in ("eager", "recorded"))
    for name, value in eager.items():
        assert torch.isfinite(value).all()
        assert torch.equal(recorded[name], value), name


def test_rainbow_trains_with_the_recorded_engine() -> None:
    rainbow = ("c51", "double", "dueling", "n_step", "prioritized", "noisy")
    train(rainbow, "recorded")


def test_a_head_that_does_not_match_the_objective_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"model\.head: ValueHead .*QValues.* C51 .*Categorical"):
        DQNModule((4,), 2, objective=C51(), head=ValueHead)
    with pytest.raises(ConfigError, match=r"model\.head: QuantileHead .*Quantiles.* DQN .*QValues"):
        DQNModule((4,), 2, head=QuantileHead)
    assert DQNModule((4,), 2, objective=QRDQN(), head=partial(QuantileHead, num_quantiles=7))


def test_an_objective_without_a_noise_argument_is_rejected_for_noisy_networks() -> None:
    def objective(online: Any, target: Any, batch: Any) -> Any:
        return DQN()(online, target, batch)

    assert DQNModule((4,), 2, objective=objective)
    with pytest.raises(ConfigError, match=r"model\.objective: function .*UpdateNoise"):
        DQNModule((4,), 2, objective=objective, noisy=True)


def test_dueling_is_rejected_for_a_custom_head_without_that_argument() -> None:
    def head(num_features: int, num_actions: int) -> torch.nn.Module:
        return ValueHead(num_features, num_actions)

    with pytest.raises(ConfigError, match=r"model\.dueling: .*head"):
        DQNModule((4,), 2, head=head, dueling=True)
