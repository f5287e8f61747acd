"""Runs: folder, checkpoints, resume, and the report at the end."""
