from typing import Any

import pytest
import torch
from torch import Tensor

from dqn_lightning.errors import ConfigError
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen, distributional, functional
from dqn_lightning.networks import MLP, QNetwork
from dqn_lightning.networks.heads import midpoints
from dqn_lightning.types import Batch, Draw, Draws, Quantiles, QValues

B, A, K = 6, 3, 4


class Table:
    """A network that knows its observations: row numbers, and 100 more for the next ones."""

    def __init__(self, seed: int, shape: tuple[int, ...] = (A,)) -> None:
        chance = torch.Generator().manual_seed(seed)
        self.values = torch.randn(200, *shape, generator=chance)
        self.passes: list[tuple[int, Draw | None]] = []

    def __call__(self, obs: Tensor, draw: Draw | None = None) -> Any:
        self.passes.append((int(obs[0]) // 100, draw))
        values = self.values[obs.long()]
        if values.ndim == 2:
            return QValues(values)
        if draw is None or draw.fractions is None:
            return Quantiles(values.mean(2), values, midpoints(K))
        return Quantiles(values.mean(2), values, draw.fractions)


def make_batch() -> Batch:
    rows = torch.arange(float(B))
    action = torch.arange(B) % A
    weight = torch.full((B,), float("nan"))  # not the objective's business
    return Batch(rows, action, rows / 10, rows / B, rows + 100, weight, rows.long())


def transition(online: Table, batch: Batch) -> list[Tensor]:
    return [online.values[:B], batch.action, batch.reward, batch.discount]


def test_plain_and_double_are_their_formulas() -> None:
    online, target, batch = Table(1), Table(2), make_batch()
    q_t, q_t_selector = target.values[100 : 100 + B], online.values[100 : 100 + B]
    error = functional.q_learning(*transition(online, batch), q_t)
    output = DQN("squared")(online, target, batch)
    torch.testing.assert_close(output.loss, error**2)
    torch.testing.assert_close(output.priority, error.abs())
    error = functional.double_q_learning(*transition(online, batch), q_t, q_t_selector)
    torch.testing.assert_close(DQN("squared", double=True)(online, target, batch).loss, error**2)
    rescaled = functional.q_learning(*transition(online, batch), q_t, rescaled=True)
    output = DQN("squared", rescaled=True)(online, target, batch)
    torch.testing.assert_close(output.loss, rescaled**2)


def test_munchausen_without_bonus_and_heat_is_plain_q_learning() -> None:
    batch, cold = make_batch(), Munchausen(alpha=0.0, temperature=1e-8)
    networks = Table(1), Table(2)
    torch.testing.assert_close(DQN(munchausen=cold)(*networks, batch), DQN()(*networks, batch))
    networks = Table(1, (A, K)), Table(2, (A, K))
    torch.testing.assert_close(QRDQN(munchausen=cold)(*networks, batch), QRDQN()(*networks, batch))


def test_munchausen_rewards_by_the_target_networks_policy() -> None:
    online, target, batch = Table(1), Table(2), make_batch()
    error = functional.munchausen_q_learning(
        *transition(online, batch), target.values[100 : 100 + B], target.values[:B], 0.5, 0.1, -2.0
    )
    output = DQN("squared", munchausen=Munchausen(0.5, 0.1, -2.0))(online, target, batch)
    torch.testing.assert_close(output.loss, error**2)


def test_at_fixed_fractions_iqn_is_qrdqn() -> None:
    online, target, batch = Table(1, (A, K)), Table(2, (A, K)), make_batch()
    fixed = Draw(fractions=midpoints(K).expand(B, K))
    given = IQN()(online, target, batch, Draws(fixed, Draw(), fixed))
    torch.testing.assert_close(given, QRDQN()(online, target, batch))


def test_quantiles_are_compared_with_those_of_the_best_action() -> None:
    online, target, batch = Table(1, (A, K)), Table(2, (A, K)), make_batch()
    for double, selector in ((False, target), (True, online)):
        output = QRDQN(double=double)(online, target, batch)
        for b in range(B):
            best = int(selector.values[100 + b].mean(1).argmax())
            goal = batch.reward[b] + batch.discount[b] * target.values[100 + b, best]
            error = goal[None, :] - online.values[b, b % A][:, None]
            loss = distributional.quantile_huber(error[None], midpoints(K))
            torch.testing.assert_close(output.loss[b], loss[0])
            torch.testing.assert_close(output.priority[b], error.mean().abs())


def test_c51_is_its_formula() -> None:
    torch.manual_seed(0)
    objective, batch = C51(5, v_min=-1, v_max=1, double=True), make_batch()
    online, target = (QNetwork((1,), A, MLP, objective.head) for _ in range(2))
    obs, next_obs = batch.obs[:, None], batch.next_obs[:, None]
    output = objective(online, target, batch._replace(obs=obs, next_obs=next_obs))
    expected = distributional.categorical_q_learning(
        online(obs).logits, batch.action, batch.reward, batch.discount,
        target(next_obs).logits.softmax(2), online(next_obs).q_values, torch.linspace(-1, 1, 5),
    )  # fmt: skip
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.priority, expected.detach())


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (DQN(), "online 0, target 1"),
        (DQN(double=True), "online 0, target 1, selector 1"),
        (DQN(munchausen=Munchausen()), "online 0, target 1, target 0"),
        (QRDQN(double=True), "online 0, target 1, selector 1"),
        (IQN(), "online 0, target 1, target without fractions 1"),
        (IQN(double=True), "online 0, target 1, selector 1"),
        (
            IQN(munchausen=Munchausen()),
            "online 0, target 1, target without fractions 1, target without fractions 0",
        ),
    ],
)
def test_each_pass_through_a_network_gets_its_own_draw(objective: Any, passes: str) -> None:
    shape = (A,) if isinstance(objective, DQN) else (A, K)
    noise, fractions = torch.zeros(1, 2), None if shape == (A,) else torch.rand(B, K)
    draws = Draws(Draw(noise, fractions), Draw(noise + 1), Draw(noise + 2, fractions))
    names = dict(zip(map(id, draws), ("online", "selector", "target"), strict=True))
    network: Any = Table(1, shape)  # as both, so that the passes are in order
    objective(network, network, make_batch(), draws)
    told = []
    for when, draw in network.passes:
        name = names.get(id(draw), "target without fractions")
        if isinstance(objective, DQN) and name == "target without fractions":
            name = "target"
        assert torch.equal(draw.noise, noise + {"online": 0, "selector": 1}.get(name, 2))
        assert (draw.fractions is None) == (fractions is None or name not in ("online", "target"))
        told.append(f"{name} {when}")
    assert ", ".join(told) == passes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"double": True}, "munchausen chooses none"),
        ({"rescaled": True}, "munchausen adds to rewards"),
    ],
)
def test_what_no_paper_defines_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DQN(munchausen=Munchausen(), **settings)


def test_quantile_objectives_refuse_double_munchausen_too() -> None:
    for objective in (QRDQN, IQN):
        with pytest.raises(ConfigError, match="munchausen chooses none"):
            objective(double=True, munchausen=Munchausen())


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Munchausen, {"temperature": 0}, r"munchausen\.temperature: must be positive, got 0"),
        (Munchausen, {"alpha": 2}, r"munchausen\.alpha: must lie in \[0, 1\], got 2"),
        (Munchausen, {"clip": 0.5}, r"munchausen\.clip: must be negative, got 0\.5"),
        (C51, {"num_atoms": 1}, "num_atoms: must be at least 2, got 1"),
        (C51, {"v_min": 3, "v_max": 2}, "v_min: must be less than v_max, got 3 and 2"),
        (C51, {"v_max": float("nan")}, "v_min: must be less than v_max, got -10.0 and nan"),
        (QRDQN, {"num_quantiles": 0}, "num_quantiles: must be at least 1, got 0"),
        (IQN, {"num_fractions": 0}, "num_fractions: must be at least 1, got 0"),
        (IQN, {"kappa": -1}, "kappa: must not be negative, got -1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(make: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)
