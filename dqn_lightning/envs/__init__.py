"""Environments: creation, vectorization, saving and restoring state, and CartPole wrappers."""

from dqn_lightning.envs.cartpole import CartPoleScreen, CartPoleShapedReward
from dqn_lightning.envs.factory import EnvFactory, Vectorization
from dqn_lightning.envs.observations import adapt, load_observations, obs_classes
from dqn_lightning.envs.settings import EnvSettings, as_env_settings
from dqn_lightning.envs.vectors import SingleVectorEnv

__all__ = [
    "CartPoleScreen",
    "CartPoleShapedReward",
    "EnvFactory",
    "EnvSettings",
    "SingleVectorEnv",
    "Vectorization",
    "adapt",
    "as_env_settings",
    "load_observations",
    "obs_classes",
]
