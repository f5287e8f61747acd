"""Runs: the folder, what is saved in it and taken from it, and the report at the end."""
