"""Encoders: images in [0, 1] -> features."""

from ae.models.encoders.base import ImageEncoder, Stage
from ae.models.encoders.conv import ConvEncoder
from ae.models.encoders.dense import DenseEncoder

__all__ = ["ConvEncoder", "DenseEncoder", "ImageEncoder", "Stage"]
