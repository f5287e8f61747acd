"""Decoders: features -> parameters of the likelihood, at least as high and wide as the image."""

from ae.models.decoders.conv import DeconvDecoder
from ae.models.decoders.dense import DenseDecoder

__all__ = ["DeconvDecoder", "DenseDecoder"]
