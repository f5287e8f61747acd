"""Hyper-parameter search over the flags of an experiment, from a W&B sweep file, without a server."""

from ae.sweeps.file import read_sweep
from ae.sweeps.space import Parameter, Sweep
from ae.sweeps.study import Study

__all__ = ["Parameter", "Study", "Sweep", "read_sweep"]
