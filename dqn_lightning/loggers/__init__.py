"""CSV logger, and running means of values to log."""

from dqn_lightning.loggers.csv import CSVLogger

__all__ = ["CSVLogger"]
