"""Settings of networks that several experiments share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ae import InputError, TimmEncoder, load_part
from ae.models import encoders
from ae.utils.validation import Positive, Settings, check_unread


@dataclass(frozen=True)
class EncoderSettings(Settings):
    """The choice of an encoder, a base of the settings of an experiment's model."""

    channels: tuple[Positive[int], ...] = (32, 64)  # of the stages of conv, resnet and vit; reversed in the decoder
    encoder: str = "conv"  # conv, resnet, vit (of width channels[-1]), timm:NAME, or run:PATH, that of a run
    norm: bool = False  # batch norm in every stage of conv; the others have norms of their own
    depth: Positive[int] | None = None  # blocks of a stage of resnet (default: 1), or of vit (default: 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, _, name = self.encoder.partition(":")
        if kind not in ("timm", "run", *_kinds()) or (kind in ("timm", "run")) != bool(name):
            known = ", ".join((*_kinds(), "timm:NAME", "run:PATH"))
            raise InputError(f"{type(self).__name__}.encoder must be one of {known}, got {self.encoder!r:.60}")
        if kind not in ("resnet", "vit"):
            check_unread(self, ["depth"], f"by the encoder {self.encoder}: leave it out")

    def make_encoder(self, image_shape: Sequence[int]) -> Any:
        """Build the encoder for images [c h w], or load that of a run; `mirror` of it builds the decoder."""
        kind, _, name = self.encoder.partition(":")
        if kind == "timm":
            return TimmEncoder(name, image_shape[0])
        if kind == "run":
            return load_part(name, "encoder").train()
        return _kinds()[kind].of_stages(image_shape[0], self.channels, self.depth, self.norm)


def _kinds() -> dict[str, Any]:
    """Encoders that are built of stages, by the names of their classes without Encoder, in lower case."""
    kinds = [getattr(encoders, name) for name in encoders.__all__]
    built = [kind for kind in kinds if kind is not encoders.ImageEncoder and "of_stages" in vars(kind)]
    return {kind.__name__.removesuffix("Encoder").lower(): kind for kind in built}
