"""Checks inside a process group: `torchrun --nproc-per-node N -m tests.helpers.in_processes`."""
