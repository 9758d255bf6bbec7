"""Short training runs with any combination of the optional methods."""

from functools import partial
from typing import Any

from lightning.pytorch import Trainer, seed_everything

from dqn_lightning import (
    DQNDataModule,
    DQNModule,
    EvaluationSettings,
    Linear,
    ReplaySettings,
    ScheduleSettings,
)
from dqn_lightning.callbacks import TargetSync
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen
from dqn_lightning.networks import MLP
from dqn_lightning.replay import Prioritized

OBJECTIVES = {"c51": partial(C51, v_min=0, v_max=50), "qrdqn": QRDQN, "iqn": IQN}
"""Objectives other than `DQN`, by the name of their method."""

OBJECTIVE_ARGS: dict[str, Any] = {
    "double": {"double": True},
    "munchausen": {"munchausen": Munchausen()},
    "rescaled": {"rescaled": True},
}
"""Arguments of the objective, by the name of the method that they enable."""

MODULE_ARGS: dict[str, Any] = {
    "dueling": {"dueling": True},
    "noisy": {"noisy": True},
    "layer_norm": {"network": partial(MLP, widths=(16,), layer_norm=True)},
}
"""Arguments of `DQNModule`, by the name of the method."""

REPLAY_ARGS: dict[str, Any] = {
    "n_step": {"n_step": 3},
    "scheduled n_step": {"n_step": Linear(1, 5, 400)},
    "prioritized": {"sampler": Prioritized(beta=Linear(0.4, 1.0, 400))},
    "reward_clip": {"reward_clip": 0.5},
}
"""Arguments of `ReplaySettings`, by the name of the method."""


def train(
    methods: tuple[str, ...], engine: Any, env_steps: int = 500, accelerator: str = "cpu"
) -> DQNModule:
    """Train on CartPole with the named methods and return the trained module."""
    seed_everything(1, verbose=False)
    objective_args: dict[str, Any] = {}
    module_args: dict[str, Any] = {"network": partial(MLP, widths=(16,))}
    replay_args: dict[str, Any] = {"batch_size": 16}
    for name in methods:
        objective_args |= OBJECTIVE_ARGS.get(name, {})
        module_args |= MODULE_ARGS.get(name, {})
        replay_args |= REPLAY_ARGS.get(name, {})
    objective: Any = next((OBJECTIVES[name] for name in methods if name in OBJECTIVES), DQN)
    module_args["objective"] = objective(**objective_args)
    datamodule = DQNDataModule(
        "CartPole-v1",
        replay=ReplaySettings(**replay_args),
        schedule=ScheduleSettings(
            learning_starts_env_steps=100, train_every_env_steps=10, total_env_steps=env_steps
        ),
        evaluation=EvaluationSettings(every_env_steps=None),
    )
    module = DQNModule(datamodule.obs_shape, datamodule.num_actions, engine=engine, **module_args)
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
