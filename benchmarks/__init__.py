"""Benchmarks, run by hand; the results are in README.md in this directory."""
