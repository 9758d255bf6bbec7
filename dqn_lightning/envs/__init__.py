"""Environments: made, vectorised, and brought into the form that the replay stores."""

from dqn_lightning.envs.cartpole_reward import CartPoleShapedReward
from dqn_lightning.envs.cartpole_screen import CartPoleScreen
from dqn_lightning.envs.factory import EnvFactory, Vectorization
from dqn_lightning.envs.observations import adapt, obs_classes
from dqn_lightning.envs.single import SingleVectorEnv

__all__ = [
    "CartPoleScreen",
    "CartPoleShapedReward",
    "EnvFactory",
    "SingleVectorEnv",
    "Vectorization",
    "adapt",
    "obs_classes",
]
