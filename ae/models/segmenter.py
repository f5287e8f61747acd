"""A head that predicts the class of each pixel."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.utils.errors import InputError
from ae.utils.validation import Positive, checked_arguments


class Segmenter(nn.Module):
    """Class of each pixel: a feature pyramid on the encoder's stages, from the coarsest level to the image.

    channels  of the image and of the encoder's stages: (1, *(stage.channels for stage in encoder.feature_info))
    width     of the pyramid's levels
    coarser   levels added by strided convolutions, so that the receptive field covers an object (Lin et al. 2017, P6
              and P7)

    Target: classes [b h w], -1 where unknown. Loss: `pixel_cross_entropy` in nats, the mean over the known pixels.
    Metrics: `pixel_accuracy`; `iou`, the intersection over union averaged over the classes in an image's target.
    """

    loss_name = "pixel_cross_entropy"
    reads_stages = True

    @checked_arguments
    def __init__(
        self,
        channels: Sequence[Positive[int]],
        target: str,
        classes: Positive[int],
        width: Positive[int] = 32,
        coarser: Positive[int] = 2,
    ) -> None:
        super().__init__()
        self.channels, self.target, self.classes = tuple(channels), target, classes
        self.width, self.coarser = width, coarser
        image, *stages = channels
        levels = [*stages, *(width,) * coarser]
        self.extra = nn.ModuleList(nn.Conv2d(c, width, 3, stride=2, padding=1) for c in levels[-coarser - 1 : -1])
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in levels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in levels)
        self.logits = nn.Conv2d(width + image, classes, 3, padding=1)

    def forward(self, stages: Sequence[Float[Tensor, "b ..."]]) -> Float[Tensor, "b classes h w"]:
        """Images and features of every stage, [b c h w] each -> logits of each pixel."""
        images, *levels = stages
        for level in levels:
            if level.ndim != 4:
                raise InputError(f"a Segmenter reads stages [b c h w], got one of {list(level.shape)}")
        got = (images.shape[1], *(level.shape[1] for level in levels))
        if got != self.channels:
            raise InputError(f"stages must have channels {list(self.channels)}, got {list(got)}")
        for conv in self.extra:
            levels.append(conv(levels[-1]).relu())
        x: Tensor | None = None
        for features, lateral, smooth in reversed(list(zip(levels, self.lateral, self.smooth, strict=True))):
            level = lateral(features)
            x = level if x is None else level + F.interpolate(x, size=level.shape[-2:])
            x = smooth(x).relu()
        assert x is not None
        return self.logits(torch.cat([F.interpolate(x, size=images.shape[-2:]), images.to(x.dtype)], dim=1))

    def loss(self, output: Float[Tensor, "b classes h w"], target: Int64[Tensor, "b h w"]) -> Float[Tensor, " b"]:
        """Cross-entropy in nats, the mean over the known pixels."""
        known = self._known(output, target)
        values = F.cross_entropy(output, target, ignore_index=-1, reduction="none")
        return values.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)

    def metrics(
        self, output: Float[Tensor, "b classes h w"], target: Int64[Tensor, "b h w"]
    ) -> dict[str, Float[Tensor, " b"]]:
        """`pixel_accuracy` and `iou`."""
        known = self._known(output, target)
        predicted = output.argmax(1)
        is_right = torch.where(known, predicted == target, False)
        of_class = range(self.classes)
        hits = torch.stack([(is_right & (target == c)).flatten(1).sum(1) for c in of_class], dim=1)
        unions = torch.stack([(known & ((predicted == c) | (target == c))).flatten(1).sum(1) for c in of_class], dim=1)
        is_there = torch.stack([(target == c).flatten(1).any(1) for c in of_class], dim=1)
        overlaps = torch.where(is_there, hits / unions.clamp(min=1), 0).sum(1) / is_there.sum(1).clamp(min=1)
        return {
            "pixel_accuracy": is_right.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1),
            "iou": overlaps,
        }

    def _known(self, output: Tensor, target: Tensor) -> Tensor:
        size = [*output.shape[:1], *output.shape[2:]]
        if list(target.shape) != size or target.is_floating_point():
            kind = f"{target.dtype} {list(target.shape)}".removeprefix("torch.")
            raise InputError(f"the target {self.target} must be classes {size}, one of each pixel, got {kind}")
        return target >= 0
