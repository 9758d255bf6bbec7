"""Plots of training metrics, embeddings of visited states, and videos of episodes."""
