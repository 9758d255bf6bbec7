"""Q-networks: a torso computes features, from which a head computes action values."""

from dqn_lightning.networks.heads import (
    CategoricalHead,
    ImplicitQuantileHead,
    QuantileHead,
    ValueHead,
)
from dqn_lightning.networks.layers import NoisyLinear, Normal, ObservationEncoder, Orthogonal
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
    "ObservationEncoder",
    "Orthogonal",
    "QNetwork",
    "QuantileHead",
    "ValueHead",
]
