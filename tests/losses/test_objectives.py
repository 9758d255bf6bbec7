from typing import Any

import pytest
import torch
from torch import Tensor

from dqn_lightning.errors import ConfigError
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen, distributional, functional
from dqn_lightning.networks import MLP, QNetwork
from dqn_lightning.networks.heads import midpoints
from dqn_lightning.types import Batch, PassNoise, Quantiles, QValues, UpdateNoise

B, A, K = 6, 3, 4


class Table:
    """Network that looks up the output of each row, and records its calls.

    The observations of a batch are row numbers, and the next observations are row numbers + 100.
    """

    def __init__(self, seed: int, shape: tuple[int, ...] = (A,)) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.values = torch.randn(200, *shape, generator=rng)
        self.passes: list[tuple[int, PassNoise | None]] = []

    def __call__(self, obs: Tensor, noise: PassNoise | None = None) -> Any:
        self.passes.append((int(obs[0]) // 100, noise))
        values = self.values[obs.long()]
        if values.ndim == 2:
            return QValues(values)
        if noise is None or noise.taus is None:
            return Quantiles(values.mean(2), values, midpoints(K))
        return Quantiles(values.mean(2), values, noise.taus)


def make_batch() -> Batch:
    rows = torch.arange(float(B))
    action = torch.arange(B) % A
    weight = torch.full((B,), float("nan"))  # the objective must not use it
    return Batch(rows, action, rows / 10, rows / B, rows + 100, weight, rows.long())


def transition(online: Table, batch: Batch) -> list[Tensor]:
    """Return the first arguments of the formulas: q_tm1, a_tm1, r_t, discount_t."""
    return [online.values[:B], batch.action, batch.reward, batch.discount]


def test_dqn_equals_the_formulas_of_q_learning() -> None:
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


def test_munchausen_with_alpha_0_at_low_temperature_equals_q_learning() -> None:
    batch, no_bonus = make_batch(), Munchausen(alpha=0.0, temperature=1e-8)
    networks = Table(1), Table(2)
    torch.testing.assert_close(DQN(munchausen=no_bonus)(*networks, batch), DQN()(*networks, batch))
    networks = Table(1, (A, K)), Table(2, (A, K))
    torch.testing.assert_close(
        QRDQN(munchausen=no_bonus)(*networks, batch), QRDQN()(*networks, batch)
    )


def test_munchausen_computes_the_policy_from_the_target_network() -> None:
    online, target, batch = Table(1), Table(2), make_batch()
    error = functional.munchausen_q_learning(
        *transition(online, batch), target.values[100 : 100 + B], target.values[:B], 0.5, 0.1, -2.0
    )
    output = DQN("squared", munchausen=Munchausen(0.5, 0.1, -2.0))(online, target, batch)
    torch.testing.assert_close(output.loss, error**2)


def test_iqn_at_fixed_taus_equals_qrdqn() -> None:
    online, target, batch = Table(1, (A, K)), Table(2, (A, K)), make_batch()
    fixed = PassNoise(taus=midpoints(K).expand(B, K))
    given = IQN()(online, target, batch, UpdateNoise(fixed, PassNoise(), fixed))
    torch.testing.assert_close(given, QRDQN()(online, target, batch))


def test_the_target_of_qrdqn_is_the_quantiles_of_the_best_next_action() -> None:
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


def test_c51_equals_the_formula_of_categorical_q_learning() -> None:
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
        (IQN(), "online 0, target 1, target without taus 1"),
        (IQN(double=True), "online 0, target 1, selector 1"),
        (
            IQN(munchausen=Munchausen()),
            "online 0, target 1, target without taus 1, target without taus 0",
        ),
    ],
)
def test_each_forward_pass_gets_its_own_noise(objective: Any, passes: str) -> None:
    shape = (A,) if isinstance(objective, DQN) else (A, K)
    noise, taus = torch.zeros(1, 2), None if shape == (A,) else torch.rand(B, K)
    update_noise = UpdateNoise(
        PassNoise(noise, taus), PassNoise(noise + 1), PassNoise(noise + 2, taus)
    )
    names = dict(zip(map(id, update_noise), ("online", "selector", "target"), strict=True))
    network: Any = Table(1, shape)  # used as both networks, so that the calls are in one list
    objective(network, network, make_batch(), update_noise)
    passes_seen = []
    for when, pass_noise in network.passes:
        name = names.get(id(pass_noise), "target without taus")
        if isinstance(objective, DQN) and name == "target without taus":
            name = "target"
        assert torch.equal(
            pass_noise.layer_noise, noise + {"online": 0, "selector": 1}.get(name, 2)
        )
        assert (pass_noise.taus is None) == (taus is None or name not in ("online", "target"))
        passes_seen.append(f"{name} {when}")
    assert ", ".join(passes_seen) == passes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"double": True}, r"model\.objective: .*double.*munchausen"),
        ({"rescaled": True}, r"model\.objective: .*munchausen.*rescaled"),
    ],
)
def test_dqn_rejects_undefined_combinations(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DQN(munchausen=Munchausen(), **settings)


def test_quantile_objectives_reject_double_with_munchausen() -> None:
    for objective in (QRDQN, IQN):
        with pytest.raises(ConfigError, match=r"model\.objective: .*double.*munchausen"):
            objective(double=True, munchausen=Munchausen())


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Munchausen, {"temperature": 0}, r"munchausen\.temperature: .*positive.* got 0"),
        (Munchausen, {"alpha": 2}, r"munchausen\.alpha: .*\[0, 1\].* got 2"),
        (Munchausen, {"clip": 0.5}, r"munchausen\.clip: .*negative.* got 0\.5"),
        (C51, {"num_atoms": 1}, r"num_atoms: .*2, got 1"),
        (C51, {"v_min": 3, "v_max": 2}, "v_min: .*v_max.* got 3 and 2"),
        (C51, {"v_max": float("nan")}, r"v_min: .*v_max.* got -10\.0 and nan"),
        (QRDQN, {"num_quantiles": 0}, "num_quantiles: .*1, got 0"),
        (IQN, {"num_taus": 0}, "num_taus: .*1, got 0"),
        (IQN, {"kappa": -1}, "kappa: .*not negative.* got -1"),
    ],
)
def test_objectives_reject_numbers_out_of_range(make: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)
