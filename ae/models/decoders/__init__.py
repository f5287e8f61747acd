"""Decoders: features -> parameters of the likelihood, at least as high and wide as the image."""

from ae.models.decoders.conv import DeconvDecoder
from ae.models.decoders.dense import DenseDecoder
from ae.models.decoders.resnet import ResNetDecoder
from ae.models.decoders.vit import ViTDecoder

__all__ = ["DeconvDecoder", "DenseDecoder", "ResNetDecoder", "ViTDecoder"]
