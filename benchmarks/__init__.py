"""Measurements: run by hand; results stand in README.md beside them."""
