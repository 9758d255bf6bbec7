"""Losses: pure formulas, and objectives that apply them to networks and batches."""

from dqn_lightning.losses.objectives import (
    C51,
    DQN,
    IQN,
    QRDQN,
    Munchausen,
    Objective,
    ObjectiveOutput,
)

__all__ = ["C51", "DQN", "IQN", "QRDQN", "Munchausen", "Objective", "ObjectiveOutput"]
