"""Files of weights that describe their model: write, read, and build the model again."""

from ae.weights.build import UnknownClassError, find_prior, load, load_generator, load_part, load_prior
from ae.weights.file import load_weights, save_weights
from ae.weights.metadata import FORMAT, Metadata, describe, read_metadata

__all__ = [
    "FORMAT",
    "Metadata",
    "UnknownClassError",
    "describe",
    "find_prior",
    "load",
    "load_generator",
    "load_part",
    "load_prior",
    "load_weights",
    "read_metadata",
    "save_weights",
]
