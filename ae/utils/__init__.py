"""Foundations of all other packages: errors, validation, random streams, files, processes, signals, the console."""
