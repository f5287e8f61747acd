"""Base of the encoders of `ae`: scale of the images, and shape of the features."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.utils.errors import InputError
from ae.utils.validation import check_images


class Stage(NamedTuple):
    """Output of a stage: channels, and stride in image pixels."""

    channels: int
    stride: int


class ImageEncoder(nn.Module):
    """Base of encoders of images [b in_channels h w] in [0, 1], which are normalised by the buffers `mean` and `std`.

    A reused encoder therefore sees the same scale. `feature_info` has the channels and strides of every stage.
    """

    mean: Tensor
    std: Tensor
    feature_info: list[Stage]

    def __init__(self, in_channels: int, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.register_buffer("mean", per_channel(mean, in_channels))
        self.register_buffer("std", per_channel(std, in_channels))

    def normalised(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """(images - mean) / std; raises InputError for images of another shape, dtype or range."""
        check_images(images, self.in_channels, self.mean.dtype)
        return (images - self.mean) / self.std

    @classmethod
    def of_stages(
        cls, in_channels: int, channels: Sequence[int], depth: int | None = None, norm: bool = False
    ) -> "ImageEncoder":
        """Build an encoder whose features have channels[-1] channels, and stride 2**len(channels).

        depth  blocks of a stage, or of a transformer (default: the encoder's), of encoders that have blocks
        norm   batch norm in every stage, of encoders that have the choice
        """
        raise InputError(f"{cls.__name__} is not built of stages")

    def mirror(self, out_channels: int = 1) -> nn.Module:
        """Build the decoder of features that is as this encoder, in reverse."""
        raise InputError(f"{type(self).__name__} has no mirrored decoder")

    @property
    def out_channels(self) -> int:
        """Channels of the last stage."""
        return self.feature_info[-1].channels

    @property
    def stride(self) -> int:
        """Stride of the last stage, in image pixels."""
        return self.feature_info[-1].stride

    def feature_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, height, width) of the features for images of this height and width."""
        return self.out_channels, -(-height // self.stride), -(-width // self.stride)


def halving(channels: Sequence[int]) -> list[Stage]:
    """`feature_info` of stages that each halve height and width; raises InputError where there is none."""
    if not channels:
        raise InputError("an encoder needs at least one stage, got channels=()")
    return [Stage(count, 2 ** (i + 1)) for i, count in enumerate(channels)]


def per_channel(value: float | Sequence[float], channels: int) -> Float[Tensor, "c 1 1"]:
    """One number, or one for each channel, as a tensor; raises InputError for another count."""
    values = [float(value)] if isinstance(value, int | float) else [float(each) for each in value]
    if len(values) not in (1, channels):
        raise InputError(f"mean and std take one number, or one for each of {channels} channels; got {len(values)}")
    return torch.tensor(values).reshape(-1, 1, 1).repeat(channels // len(values), 1, 1)
