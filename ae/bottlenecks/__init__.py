"""Bottlenecks: features -> Code -> features again. The model never asks which one it has.

The contract is two methods: `forward(features) -> Code` and `expand(z) -> features`, what the decoder reads.
"""

from ae.bottlenecks.code import Code
from ae.bottlenecks.gaussian import Gaussian
from ae.bottlenecks.plain import Dense, Identity, Sphere, TopK
from ae.bottlenecks.quantized import FSQ, VectorQuantized

__all__ = ["FSQ", "Code", "Dense", "Gaussian", "Identity", "Sphere", "TopK", "VectorQuantized"]
