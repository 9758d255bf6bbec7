"""Networks: a torso makes features of observations, a head makes action values of features."""

from dqn_lightning.networks.heads import (
    CategoricalHead,
    ImplicitQuantileHead,
    QuantileHead,
    ValueHead,
)
from dqn_lightning.networks.layers import NoisyLinear, Normal, Observation, Orthogonal
from dqn_lightning.networks.q_network import QNetwork
from dqn_lightning.networks.torsos import CNN, MLP, FrameAndDifferences, FrameDifference

__all__ = [
    "CNN",
    "MLP",
    "CategoricalHead",
    "FrameAndDifferences",
    "FrameDifference",
    "ImplicitQuantileHead",
    "NoisyLinear",
    "Normal",
    "Observation",
    "Orthogonal",
    "QNetwork",
    "QuantileHead",
    "ValueHead",
]
