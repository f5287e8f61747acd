"""The choice of an encoder by name, for command lines."""

from collections.abc import Sequence
from dataclasses import dataclass

from ae.models import encoders
from ae.models.encoders.base import ImageEncoder
from ae.utils.errors import InputError
from ae.utils.validation import Positive, Settings, check_unread


@dataclass(frozen=True)
class EncoderSettings(Settings):
    """The choice of an encoder, a base of the settings of an experiment's model."""

    channels: tuple[Positive[int], ...] = (32, 64)  # of the encoder's stages; the decoder has them in reverse
    encoder: str = "conv"  # conv, resnet, vit (of width channels[-1]), or timm:NAME, a backbone of timm
    norm: bool = False  # batch norm in every stage of conv; the others have norms of their own
    depth: Positive[int] | None = None  # blocks of a stage of resnet (default: 1), or of vit (default: 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, _, backbone = self.encoder.partition(":")
        if kind not in ("timm", *_kinds()) or (kind == "timm") != bool(backbone):
            known = ", ".join((*_kinds(), "timm:NAME"))
            raise InputError(f"{type(self).__name__}.encoder must be one of {known}, got {self.encoder!r:.60}")
        if kind in ("conv", "timm"):
            check_unread(self, ["depth"], f"by the encoder {self.encoder}: leave it out")

    def make_encoder(self, image_shape: Sequence[int]) -> ImageEncoder:
        """Build the encoder for images [c h w]; `mirror` of it builds the decoder."""
        kind, _, backbone = self.encoder.partition(":")
        if backbone:
            return encoders.TimmEncoder(backbone, image_shape[0])
        return _kinds()[kind].of_stages(image_shape[0], self.channels, self.depth, self.norm)


def _kinds() -> dict[str, type[ImageEncoder]]:
    """Encoders that are built of stages, by the names of their classes without Encoder, in lower case."""
    kinds = [getattr(encoders, name) for name in encoders.__all__]
    built = [kind for kind in kinds if kind is not ImageEncoder and "of_stages" in vars(kind)]
    return {kind.__name__.removesuffix("Encoder").lower(): kind for kind in built}
