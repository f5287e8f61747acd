"""Autoencoder research on PyTorch: encoder -> bottleneck -> decoder, heads that read the code, and one loop."""

from ae import signals as signals  # the first: from here on Ctrl-C ends a program of ours in one line
from ae.bottlenecks import FSQ, Code, Dense, Gaussian, Identity, Sphere, TopK, VectorQuantized
from ae.data import Augment, Batch, Batches, Data, Images, ImageSet, Splits, Streamed
from ae.decoders import DeconvDecoder, DenseDecoder
from ae.encoders import ConvEncoder, DenseEncoder, Stage
from ae.errors import DivergedError, InputError
from ae.generation import Generation
from ae.heads import Classifier
from ae.loop import Loop
from ae.metrics import evaluate
from ae.model import Autoencoder, Output
from ae.objectives import (
    IWAE,
    MMD,
    BetaTC,
    Consistency,
    Contractive,
    Joint,
    Ladder,
    LearnedWeights,
    Loss,
    Ramps,
    Teaching,
)
from ae.report import report
from ae.run import Run, RunConfig
from ae.training import Recipe, fit
from ae.validation import unchecked_range
from ae.weights import About, load, load_weights, read_about, save_weights

__version__ = "0.1.0"

__all__ = [
    "FSQ",
    "IWAE",
    "MMD",
    "About",
    "Augment",
    "Autoencoder",
    "Batch",
    "Batches",
    "BetaTC",
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
    "DivergedError",
    "Gaussian",
    "Generation",
    "Identity",
    "ImageSet",
    "Images",
    "InputError",
    "Joint",
    "Ladder",
    "LearnedWeights",
    "Loop",
    "Loss",
    "Output",
    "Ramps",
    "Recipe",
    "Run",
    "RunConfig",
    "Sphere",
    "Splits",
    "Stage",
    "Streamed",
    "Teaching",
    "TopK",
    "VectorQuantized",
    "evaluate",
    "fit",
    "load",
    "load_weights",
    "read_about",
    "report",
    "save_weights",
    "unchecked_range",
]
