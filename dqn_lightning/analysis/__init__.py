"""Diagnostics of training runs, and export of networks to other formats."""
