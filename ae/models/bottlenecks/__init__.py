"""Bottlenecks: features -> Code, and z -> features for the decoder.

Required methods: `forward(features) -> Code` and `expand(z) -> features`.

Optional parts, for codes that do not come from an image (`ae.evaluation.sampling`):
    prior                           a module with log_prob(z) and sample(count) (`ae.models.priors`)
    project(z) -> z                 the nearest valid codes; without this method, every z is valid
    mix(start, end, fraction) -> z  interpolate codes; without this method, linearly and then projected

With the attribute `reads_stages` = True, `forward` is given the images and the features of every stage of the encoder,
as heads are (`ae.models.heads`). A code of several levels has `Code.levels`. The posterior of a code gives samples by
`rsample` and their log density by `log_prob`, of which importance-weighted bounds are made.

Quantizers also have `codebook_size`, `indices(z) -> index` and `lookup(index) -> z`, and give `Code.indices`.
"""

from ae.models.bottlenecks.code import Code
from ae.models.bottlenecks.fsq import FSQ
from ae.models.bottlenecks.gaussian import Gaussian, SpatialGaussian
from ae.models.bottlenecks.hierarchical import HierarchicalGaussian
from ae.models.bottlenecks.linear import Dense, Identity
from ae.models.bottlenecks.sphere import Sphere
from ae.models.bottlenecks.topk import TopK
from ae.models.bottlenecks.vq import VectorQuantizer

__all__ = [
    "FSQ",
    "Code",
    "Dense",
    "Gaussian",
    "HierarchicalGaussian",
    "Identity",
    "SpatialGaussian",
    "Sphere",
    "TopK",
    "VectorQuantizer",
]
