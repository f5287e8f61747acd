"""Experiments, a file each; run from the repository's root by `python -m experiments.NAME`."""

import ae.utils.signals  # noqa: F401  # Ctrl-C during imports ends in one line
