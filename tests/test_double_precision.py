"""Training with `trainer.precision: 64-true`, and acting after `module.double()`."""

import warnings

import pytest
import torch

from dqn_lightning import DQNModule
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen
from dqn_lightning.networks.acting import greedy_policy
from tests.helpers.training import make, train, weights

OBJECTIVES = {
    "dqn": DQN(double=True),
    "munchausen": DQN(munchausen=Munchausen()),
    "c51": C51(v_min=0, v_max=50, double=True),
    "qrdqn": QRDQN(num_quantiles=5),
    "iqn": IQN(),
    "iqn, munchausen": IQN(munchausen=Munchausen()),
}


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_and_evaluates_in_double_precision(
    objective: str, noisy: bool
) -> None:
    options = {"objective": OBJECTIVES[objective], "noisy": noisy, "dueling": noisy}
    results = []
    for engine in ("eager", "auto"):
        module, data = make(
            module={**options, "engine": engine}, total_env_steps=80, eval_every_env_steps=80
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "model.engine")  # `auto` must not fall back to eager
            train(module, data, precision="64-true", num_sanity_val_steps=0)
        assert module.progress.grad_steps == 31
        assert module.summary is not None
        results.append(weights(module))
    assert {value.dtype for value in results[0]} == {torch.float64}
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_module_converted_to_double_precision_acts(objective: str, noisy: bool) -> None:
    module, data = make(module={"objective": OBJECTIVES[objective], "noisy": noisy})
    obs = torch.randn(5, 4)
    values = module.q_values(obs)
    assert module.double().q_values(obs).dtype == torch.float64
    torch.testing.assert_close(module.q_values(obs).float(), values)
    assert data._evaluation(2, seed=5)(greedy_policy(module.online))
    assert module.float().q_values(obs).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "obs_classes", "obs"),
    [
        ((2,), (3, 4), torch.tensor([[2, 1]])),
        ((1, 8, 8), None, torch.full((1, 1, 8, 8), 51, dtype=torch.uint8)),
        ((2,), None, torch.tensor([[0.5, 2]], dtype=torch.float16)),
    ],
    ids=["classes", "images", "half precision"],
)
def test_all_kinds_of_observations_are_converted_to_double_precision(
    shape: tuple[int, ...], obs_classes: tuple[int, ...] | None, obs: torch.Tensor
) -> None:
    module = DQNModule(shape, 2, obs_classes).double()
    encoded = module.online.obs_encoder(obs)
    assert encoded.dtype == torch.float64
    assert torch.isfinite(module.q_values(obs)).all()
    if obs.dtype == torch.uint8:
        assert encoded[0, 0, 0, 0] == 51 / 255  # to the last bit of double precision
