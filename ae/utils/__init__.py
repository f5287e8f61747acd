"""Foundations of all other packages: errors, validation, random numbers, files, processes, the console."""
