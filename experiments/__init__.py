"""Experiments: each file one, run from the repository's root with `python -m experiments.NAME`."""
