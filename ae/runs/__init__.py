"""Runs: folder, start, checkpoints, tracking, and the report."""
