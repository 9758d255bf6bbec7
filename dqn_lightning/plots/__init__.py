"""Pictures of runs, and of what an environment shows."""
