"""Bottlenecks: features -> Code -> features again. The model never asks which one it has.

The contract is two methods: `forward(features) -> Code` and `expand(z) -> features`, what the decoder reads.

Three more are optional, for codes that are not those of an image (`ae.evaluation.sampling` asks for them):
    sample(count) -> z              codes from the bottleneck's prior
    project(z) -> z                 the nearest codes that the bottleneck can give; without it, every z is one
    mix(one, other, fraction) -> z  the codes at a fraction of the way; without it, the linear mixture, projected
"""

from ae.models.bottlenecks.code import Code
from ae.models.bottlenecks.fsq import FSQ
from ae.models.bottlenecks.gaussian import Gaussian
from ae.models.bottlenecks.linear import Dense, Identity, Sphere, TopK
from ae.models.bottlenecks.vq import VectorQuantizer

__all__ = ["FSQ", "Code", "Dense", "Gaussian", "Identity", "Sphere", "TopK", "VectorQuantizer"]
