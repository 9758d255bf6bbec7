"""Interaction with environments: action selection, data collection, rollouts and evaluation."""
