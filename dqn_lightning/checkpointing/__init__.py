"""Checkpointing: atomic file writes, serialization, and saving and restoring a run's state."""
