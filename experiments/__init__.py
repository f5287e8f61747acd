"""Experiments: each file one, run from the repository's root with `python -m experiments.NAME`."""

import ae.utils.signals  # noqa: F401  # Ctrl-C while the libraries are imported ends in one line
