"""Autoencoder research on PyTorch: encoder -> bottleneck -> decoder, heads that read the code, and one loop."""

from ae.utils import signals as signals  # isort: skip  # first: Ctrl-C while the others are imported ends in one line

from ae.data import Augment, Batch, Batches, Data, Images, ImageSet, Splits, Streamed, Target
from ae.evaluation.evaluate import evaluate
from ae.evaluation.sampling import sample
from ae.models.autoencoder import Autoencoder, Output
from ae.models.bottlenecks import (
    FSQ,
    Code,
    Dense,
    Gaussian,
    HierarchicalGaussian,
    Identity,
    SpatialGaussian,
    Sphere,
    TopK,
    VectorQuantizer,
)
from ae.models.decoders import DeconvDecoder, DenseDecoder, ResNetDecoder, ViTDecoder
from ae.models.discriminators import PatchDiscriminator
from ae.models.encoders import (
    ConvEncoder,
    DenseEncoder,
    PyramidEncoder,
    ResNetEncoder,
    Stage,
    TimmEncoder,
    ViTEncoder,
)
from ae.models.generator import Generator
from ae.models.heads import Classifier, MultiLabel, Regressor
from ae.models.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    SquaredError,
)
from ae.models.priors import GaussianMixture, StandardNormal, TopDownGaussian, UniformSphere
from ae.models.segmenter import Segmenter
from ae.objectives import (
    IWAE,
    MAE,
    MMD,
    AdversarialConfig,
    BetaTC,
    Consistency,
    Contractive,
    Joint,
    Ladder,
    Loss,
    PerceptualAdversarial,
    PerceptualDistance,
    TeacherConfig,
    UncertaintyWeighting,
    WeightSchedule,
)
from ae.runs.config import RunConfig
from ae.runs.generation import Generation
from ae.runs.push import push
from ae.runs.report import report
from ae.runs.run import Run
from ae.training.fit import fit
from ae.training.loop import Loop
from ae.training.recipe import Recipe
from ae.utils.errors import DivergedError, InputError
from ae.utils.validation import unchecked_range
from ae.weights import Metadata, load, load_part, load_weights, read_metadata, save_weights

__version__ = "0.2.0"

__all__ = [
    "FSQ",
    "IWAE",
    "MAE",
    "MMD",
    "AdversarialConfig",
    "Augment",
    "Autoencoder",
    "Batch",
    "Batches",
    "BernoulliLikelihood",
    "BetaTC",
    "CategoricalLikelihood",
    "Classifier",
    "Code",
    "Consistency",
    "Contractive",
    "ConvEncoder",
    "Data",
    "DeconvDecoder",
    "Dense",
    "DenseDecoder",
    "DenseEncoder",
    "DiscretizedLogisticLikelihood",
    "DivergedError",
    "Gaussian",
    "GaussianLikelihood",
    "GaussianMixture",
    "Generation",
    "Generator",
    "HierarchicalGaussian",
    "Identity",
    "ImageSet",
    "Images",
    "InputError",
    "Joint",
    "Ladder",
    "Loop",
    "Loss",
    "Metadata",
    "MultiLabel",
    "Output",
    "PatchDiscriminator",
    "PerceptualAdversarial",
    "PerceptualDistance",
    "PyramidEncoder",
    "Recipe",
    "Regressor",
    "ResNetDecoder",
    "ResNetEncoder",
    "Run",
    "RunConfig",
    "Segmenter",
    "SpatialGaussian",
    "Sphere",
    "Splits",
    "SquaredError",
    "Stage",
    "StandardNormal",
    "Streamed",
    "Target",
    "TeacherConfig",
    "TimmEncoder",
    "TopDownGaussian",
    "TopK",
    "UncertaintyWeighting",
    "UniformSphere",
    "VectorQuantizer",
    "ViTDecoder",
    "ViTEncoder",
    "WeightSchedule",
    "evaluate",
    "fit",
    "load",
    "load_part",
    "load_weights",
    "push",
    "read_metadata",
    "report",
    "sample",
    "save_weights",
    "unchecked_range",
]
