"""Losses: pure formulas, and the objectives that apply them to networks and batches."""

from dqn_lightning.losses.objectives import DQN, Objective, ObjectiveOutput

__all__ = ["DQN", "Objective", "ObjectiveOutput"]
