"""Encoders: images in [0, 1] -> features."""

from ae.models.encoders.base import ImageEncoder, Stage
from ae.models.encoders.conv import ConvEncoder
from ae.models.encoders.dense import DenseEncoder
from ae.models.encoders.pyramid import PyramidEncoder, TimmEncoder
from ae.models.encoders.resnet import ResNetEncoder
from ae.models.encoders.vit import ViTEncoder

__all__ = [
    "ConvEncoder",
    "DenseEncoder",
    "ImageEncoder",
    "PyramidEncoder",
    "ResNetEncoder",
    "Stage",
    "TimmEncoder",
    "ViTEncoder",
]
