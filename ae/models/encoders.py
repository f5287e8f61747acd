"""Encoders: images in [0, 1] -> features."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.utils.errors import InputError
from ae.utils.validation import Positive, check_images, check_shape, checked_arguments


class Stage(NamedTuple):
    """Output of a stage: channels, and stride in image pixels."""

    channels: int
    stride: int


class ConvStage(nn.Sequential):
    """A stage of `ConvEncoder`: conv 3x3 - (batch norm) - max pool 2 - ReLU."""

    def pre_activation(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features fh fw"]:
        """Output of all layers but the ReLU."""
        *layers, _ = self
        for layer in layers:
            x = layer(x)
        return x


class ConvEncoder(nn.Module):
    """The trunk of a CNN: stages of conv 3x3 - (batch norm) - max pool 2 - ReLU, each halving height and width.

    Images [b in_channels h w] in [0, 1] -> features [b channels[-1] ceil(h/stride) ceil(w/stride)], stride = 2**stages.
    ReLU and max pool commute; after the pool, the ReLU has a quarter of the elements.
    Images are normalised by `mean` and `std` in the encoder, so that a reused encoder sees the same scale.
    Raises InputError for images of another shape, dtype or range.
    """

    mean: Tensor
    std: Tensor

    @checked_arguments
    def __init__(
        self,
        in_channels: Positive[int] = 1,
        channels: Sequence[Positive[int]] = (32, 64),
        norm: bool = False,
        mean: float | Sequence[float] = 0.5,
        std: Positive[float] | Sequence[Positive[float]] = 0.5,
    ) -> None:
        super().__init__()
        if not channels:
            raise InputError("an encoder needs at least one stage, got channels=()")
        self.in_channels = in_channels
        self.channels = tuple(channels)
        self.norm = norm
        self.register_buffer("mean", _per_channel(mean, in_channels))
        self.register_buffer("std", _per_channel(std, in_channels))
        self.stages = nn.ModuleList(
            _stage(c_in, c_out, norm) for c_in, c_out in zip((in_channels, *channels), channels, strict=False)
        )
        self.feature_info = [Stage(c, 2 ** (i + 1)) for i, c in enumerate(channels)]
        self.out_channels, self.stride = self.feature_info[-1]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features fh fw"]:
        """Images [b c h w] in [0, 1] -> the last stage's features."""
        return self.features(images)[-1]

    def features(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Images [b c h w] in [0, 1] -> features of every stage; `feature_info` has their channels and strides."""
        check_images(images, self.in_channels, self.mean.dtype)
        x = (images - self.mean) / self.std
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)  # 28x28: [b 32 14 14], [b 64 7 7]
        return features

    def feature_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, height, width) of the features for images of this height and width."""
        return self.out_channels, -(-height // self.stride), -(-width // self.stride)


class DenseEncoder(nn.Module):
    """Fully connected layers, each followed by a ReLU, for small images of fixed size.

    Images [b *image_shape] in [0, 1] -> features [b widths[-1]]. Images are normalised by `mean` and `std`.
    Raises InputError for images of another shape, dtype or range.
    """

    mean: Tensor
    std: Tensor

    @checked_arguments
    def __init__(
        self,
        image_shape: Sequence[Positive[int]] = (1, 28, 28),
        widths: Sequence[Positive[int]] = (400, 400),
        mean: float | Sequence[float] = 0.5,
        std: Positive[float] | Sequence[Positive[float]] = 0.5,
    ) -> None:
        super().__init__()
        if not widths:
            raise InputError("an encoder needs at least one layer, got widths=()")
        self.image_shape, self.widths = tuple(image_shape), tuple(widths)
        self.register_buffer("mean", _per_channel(mean, self.image_shape[0]))
        self.register_buffer("std", _per_channel(std, self.image_shape[0]))
        sizes = (prod(self.image_shape), *widths)
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features"]:
        """Images [b c h w] in [0, 1] -> the last layer's features."""
        return self.features(images)[-1]

    def features(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _"]]:
        """Images [b c h w] in [0, 1] -> features of every layer."""
        check_images(images, self.image_shape[0], self.mean.dtype)
        check_shape("images", images, self.image_shape)
        x = ((images - self.mean) / self.std).flatten(1)
        features = []
        for layer in self.layers:
            x = layer(x).relu()
            features.append(x)
        return features

    def feature_shape(self, height: int, width: int) -> tuple[int]:
        """(features,), for images of `image_shape`."""
        return (self.widths[-1],)


def _stage(c_in: int, c_out: int, norm: bool) -> ConvStage:
    layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(c_in, c_out, 3, padding=1))
    if norm:
        layers["norm"] = nn.BatchNorm2d(c_out)
    layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)  # ceil_mode keeps an odd last row or column
    layers["relu"] = nn.ReLU()
    return ConvStage(layers)


def _per_channel(value: float | Sequence[float], channels: int) -> Float[Tensor, "c 1 1"]:
    values = _numbers(value)
    if len(values) not in (1, channels):
        raise InputError(f"mean and std take one number, or one for each of {channels} channels; got {len(values)}")
    return torch.tensor(values).reshape(-1, 1, 1).repeat(channels // len(values), 1, 1)


def _numbers(value: float | Sequence[float]) -> list[float]:
    return [float(value)] if isinstance(value, int | float) else [float(each) for each in value]
