"""Every pair of ideas trains, with every engine, or is refused with the reason."""

from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from dqn_lightning import ConfigError, DQNDataModule, DQNModule, Linear
from dqn_lightning.callbacks import TargetSync
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen
from dqn_lightning.networks import MLP, QuantileHead, ValueHead
from dqn_lightning.replay import Prioritized

OBJECTIVES = {"c51": partial(C51, v_min=0, v_max=50), "qrdqn": QRDQN, "iqn": IQN}
OF_OBJECTIVE: dict[str, Any] = {
    "double": {"double": True},
    "munchausen": {"munchausen": Munchausen()},
    "rescaled": {"rescaled": True},
}
OF_MODULE: dict[str, Any] = {
    "dueling": {"dueling": True},
    "noisy": {"noisy": True},
    "layer_norm": {"network": partial(MLP, widths=(16,), layer_norm=True)},
}
OF_DATA: dict[str, Any] = {
    "n_step": {"n_step": 3},
    "changing n_step": {"n_step": Linear(1, 5, 400)},
    "prioritized": {"sampler": Prioritized(beta=Linear(0.4, 1.0, 400))},
    "reward_clip": {"reward_clip": 0.5},
}
SWITCHES = [*OBJECTIVES, *OF_OBJECTIVE, *OF_MODULE, *OF_DATA]
REFUSED = {
    ("c51", "munchausen"): (TypeError, "munchausen"),
    ("c51", "rescaled"): (TypeError, "rescaled"),
    ("qrdqn", "rescaled"): (TypeError, "rescaled"),
    ("iqn", "rescaled"): (TypeError, "rescaled"),
    ("double", "munchausen"): (ConfigError, "munchausen chooses none"),
    ("munchausen", "rescaled"): (ConfigError, "munchausen adds to rewards"),
    ("munchausen", "n_step"): (ConfigError, r"data.n_step: the objective is for .* got 3"),
    ("munchausen", "changing n_step"): (ConfigError, r"data.n_step: the objective is for .* got 5"),
}
PAIRS = [
    pair
    for pair in combinations(SWITCHES, 2)
    if not set(pair) <= set(OBJECTIVES)  # one place for one objective
    and pair != ("n_step", "changing n_step")
]


def train(
    switches: tuple[str, ...], engine: Any, env_steps: int = 500, accelerator: str = "cpu"
) -> DQNModule:
    seed_everything(1, verbose=False)
    chosen: dict[str, Any] = {}
    for name in switches:
        chosen |= OF_OBJECTIVE.get(name, {})
    make: Any = next((OBJECTIVES[name] for name in switches if name in OBJECTIVES), DQN)
    model: dict[str, Any] = {"network": partial(MLP, widths=(16,)), "objective": make(**chosen)}
    data: dict[str, Any] = {}
    for name in switches:
        model |= OF_MODULE.get(name, {})
        data |= OF_DATA.get(name, {})
    datamodule = DQNDataModule(
        "CartPole-v1",
        batch_size=16,
        learning_starts_env_steps=100,
        train_every_env_steps=10,
        total_env_steps=env_steps,
        eval_every_env_steps=None,
        **data,
    )
    module = DQNModule(datamodule.obs_shape, datamodule.num_actions, engine=engine, **model)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=-1,
        logger=False,
        callbacks=[TargetSync(every_n_grad_steps=10)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=datamodule)
    assert trainer.global_step == (env_steps - 100) // 10 + 1
    return module


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_pairs_of_ideas_train_with_every_engine_or_are_refused(pair: tuple[str, str]) -> None:
    if pair in REFUSED:
        error, message = REFUSED[pair]
        with pytest.raises(error, match=message):
            train(pair, "eager")
        return
    eager, traced = (train(pair, engine).online.state_dict() for engine in ("eager", "traced"))
    for name, value in eager.items():
        assert torch.isfinite(value).all()
        assert torch.equal(traced[name], value), name


def test_rainbow_trains() -> None:
    rainbow = ("c51", "double", "dueling", "n_step", "prioritized", "noisy")
    train(rainbow, "traced")


def test_a_head_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="ValueHead makes QValues, the objective C51 needs Categ"):
        DQNModule((4,), 2, objective=C51(), head=ValueHead)
    with pytest.raises(ConfigError, match="QuantileHead makes Quantiles, the objective DQN needs"):
        DQNModule((4,), 2, head=QuantileHead)
    assert DQNModule((4,), 2, objective=QRDQN(), head=partial(QuantileHead, num_quantiles=7))


def test_an_objective_that_would_not_see_the_noise_is_refused() -> None:
    def objective(online: Any, target: Any, batch: Any) -> Any:
        return DQN()(online, target, batch)

    assert DQNModule((4,), 2, objective=objective)
    with pytest.raises(ConfigError, match="function would learn without the network's noise"):
        DQNModule((4,), 2, objective=objective, noisy=True)


def test_a_head_of_somebodys_own_has_its_own_way_of_dueling() -> None:
    def head(num_features: int, num_actions: int) -> torch.nn.Module:
        return ValueHead(num_features, num_actions)

    with pytest.raises(ConfigError, match=r"model\.dueling: the head .*head.* does not know it"):
        DQNModule((4,), 2, head=head, dueling=True)
