"""Tests of the bottlenecks."""

SHAPE = (6, 3, 4)
"""Shape of the features."""
