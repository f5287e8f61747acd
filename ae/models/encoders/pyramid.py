"""Backbones of other libraries as encoders: modules that give features of several resolutions."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ae.models.decoders import ResNetDecoder
from ae.models.encoders.base import ImageEncoder, Stage
from ae.models.transformer import pad_to_multiple
from ae.utils.errors import InputError, one_line
from ae.utils.extras import extra
from ae.utils.validation import Positive, checked_arguments


class PyramidEncoder(ImageEncoder):
    """Any module that maps images to a list of features [b c h w], from the highest resolution to the lowest.

    stages    (channels, stride) of each; of a backbone whose list begins with the image itself, without it
    backbone  such as an encoder of segmentation_models_pytorch

    Images [b in_channels h w] in [0, 1] -> the last of the features [b c ceil(h/stride) ceil(w/stride)]. The last row
    and column of pixels are repeated up to a multiple of the stride, so that backbones that round down take any size.
    A frozen backbone, `requires_grad_(False).eval()`, stays frozen. Raises InputError for images of another shape,
    dtype or range, and for features that are not as `stages` say.
    """

    @checked_arguments
    def __init__(
        self,
        backbone: nn.Module,
        stages: Sequence[tuple[Positive[int], Positive[int]]],
        in_channels: Positive[int] = 1,
        mean: float | Sequence[float] = 0.5,
        std: Positive[float] | Sequence[Positive[float]] = 0.5,
    ) -> None:
        super().__init__(in_channels, mean, std)
        if not stages:
            raise InputError("an encoder needs at least one stage, got stages=()")
        self.feature_info = [Stage(*stage) for stage in stages]
        self.stages = tuple(stages)
        self.backbone = backbone

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features fh fw"]:
        """Images [b c h w] in [0, 1] -> features of the lowest resolution."""
        return self.features(images)[-1]

    def features(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Images [b c h w] in [0, 1] -> features of every stage; `feature_info` has their channels and strides."""
        x = pad_to_multiple(self.normalised(images), self.stride)
        features: Any = self.backbone(x)
        if not isinstance(features, list | tuple):
            raise InputError(f"the backbone must give a list of features, gave {type(features).__name__}")
        count = len(self.feature_info)
        if len(features) < count:
            raise InputError(f"the backbone must give features of {count} stages, gave {len(features)}")
        features = list(features)[-count:]
        for stage, each in zip(self.feature_info, features, strict=True):
            expected = (stage.channels, x.shape[2] // stage.stride, x.shape[3] // stage.stride)
            if tuple(each.shape[1:]) != expected:
                shape = " ".join(map(str, expected))
                raise InputError(f"the backbone must give features [b {shape}], gave {list(each.shape)}")
        return features

    def mirror(self, out_channels: int = 1) -> ResNetDecoder:
        """A residual decoder that doubles height and width as often as the stride asks for.

        Its channels are those of the stages; raises InputError for a stride that is no power of 2.
        """
        return ResNetDecoder(out_channels, mirrored_channels(self.feature_info))


class TimmEncoder(PyramidEncoder):
    """A backbone of timm by name, such as resnet18 or convnext_atto (extra `timm`).

    pretrained  read timm's weights, which are downloaded; a saved model holds its own
    frozen      keep the backbone as it is; its batch norm uses its running statistics
    levels      resolutions of the backbone's that are used, from the highest on (default: all)

    Images and features are as of `PyramidEncoder`. Raises InputError for a name that timm does not know.
    """

    @checked_arguments
    def __init__(
        self,
        name: str,
        in_channels: Positive[int] = 1,
        pretrained: bool = False,
        frozen: bool = False,
        levels: Positive[int] | None = None,
        mean: float | Sequence[float] = 0.5,
        std: Positive[float] | Sequence[Positive[float]] = 0.5,
    ) -> None:
        if pretrained and torch.empty(0).is_meta:
            raise InputError("a file's encoder is built without pretrained weights: its own are in the file")
        backbone = _timm_backbone(name, in_channels, pretrained, levels)
        info = backbone.feature_info
        super().__init__(backbone, list(zip(info.channels(), info.reduction(), strict=True)), in_channels, mean, std)
        self.name, self.frozen, self.levels = name, frozen, levels
        self.pretrained = False  # in a saved model's description: its weights are in the file
        if frozen:
            backbone.requires_grad_(False).eval()


def _timm_backbone(name: str, in_channels: int, pretrained: bool, levels: int | None) -> Any:
    with extra("timm", f"the encoder {name}"):
        import timm
    if not timm.is_model(name):  # also excludes names that are addresses
        similar = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise InputError(f"timm has no model {name!r:.60}" + (f"; similar are {similar}" if similar else ""))
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": in_channels, "features_only": True}
    if levels is not None:
        options["out_indices"] = tuple(range(levels))
    for of_transformers in (options | {"dynamic_img_size": True}, options):  # which are else of one size
        try:
            return timm.create_model(name, **of_transformers)
        except TypeError:
            continue
        except (RuntimeError, AssertionError, IndexError, ValueError, OSError) as error:  # OSError: no connection
            raise InputError(f"timm's {name} can't be an encoder: {one_line(error)}") from error
    raise InputError(f"timm's {name} gives no features of several resolutions")


def mirrored_channels(stages: Sequence[Stage]) -> tuple[int, ...]:
    """Channels of decoder stages that each double, from those of an encoder's stages; the last is that of the first.

    Raises InputError for strides that are no powers of 2.
    """
    by_halvings: dict[int, int] = {}
    for stage in stages:
        if stage.stride & (stage.stride - 1):
            raise InputError(f"a decoder doubles height and width, and can't follow a stride of {stage.stride}")
        by_halvings[int(math.log2(stage.stride))] = stage.channels
    channels: list[int] = []
    for low, high in pairwise((0, *sorted(by_halvings))):
        channels += [by_halvings[high]] * (high - low)
    return tuple(reversed(channels))
