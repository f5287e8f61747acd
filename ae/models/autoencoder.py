"""The autoencoder: encoder -> bottleneck -> decoder, with heads on the code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ae.functional import at_least_float32, check_same_shape
from ae.models.bottlenecks import Code, Identity
from ae.models.likelihoods import SquaredError
from ae.models.priors import prior_of
from ae.utils.errors import InputError


@dataclass
class Output:
    """Result of `Autoencoder.forward` for images [b c h w]."""

    code: Code
    params: Float[Tensor, "b _ h w"] | None  # parameters of the likelihood; None without a decoder
    mean: Float[Tensor, "b c h w"] | None  # the likelihood's mean image in [0, 1]; None without a decoder
    predictions: dict[str, Float[Tensor, "b ..."]]  # {head: output}, such as logits [b classes]

    @property
    def reconstruction(self) -> Float[Tensor, "b c h w"]:
        """The reconstructed images in [0, 1], `mean`; raises InputError without a decoder."""
        if self.mean is None:
            raise InputError("no reconstruction: the model has no decoder")
        return self.mean


torch.export.register_dataclass(Output)  # for torch.export of whole models


def _check_modules(parts: Mapping[str, Any], heads: Any) -> None:
    """Raise InputError for values that are not modules, and for invalid names of heads."""
    for name, part in parts.items():
        if not isinstance(part, nn.Module) and (part is not None or name == "encoder"):
            raise InputError(f"{name} must be a torch.nn.Module, got {part!r:.60}")
    if heads is not None and not isinstance(heads, Mapping):
        raise InputError(
            f'heads must be a dict {{name: module}}, as in {{"digit": Classifier(...)}}, got {heads!r:.60}'
        )
    for name, head in (heads or {}).items():
        if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict(), name):
            raise InputError(f"a head's name must be text without a dot that is no method's name, got {name!r}")
        if not isinstance(head, nn.Module):
            raise InputError(f"the head {name} must be a torch.nn.Module, got {head!r:.60}")


def _features(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    """Features of every stage of an encoder; raises InputError for an encoder that has none."""
    features: Any = getattr(encoder, "features", None)
    if not callable(features):
        name = type(encoder).__name__
        raise InputError(f"a part reads the encoder's stages, and {name} has no features(images) that gives them")
    return list(features(images))


def _tensor(features: Any) -> Any:
    """The features; raises InputError for a list of them, as backbones of several resolutions give."""
    if isinstance(features, list | tuple):
        raise InputError(
            f"the encoder must give one tensor of features, gave a {type(features).__name__} of {len(features)}: "
            "PyramidEncoder makes an encoder of such a backbone"
        )
    return features


def _reads_stages(part: nn.Module) -> bool:
    """Whether a head or a bottleneck reads images and features of every stage (`ae.models.heads`)."""
    return bool(getattr(part, "reads_stages", False))


class Autoencoder(nn.Module):
    """encoder -> bottleneck -> decoder, with heads {name: module} on the code's mean (contract: `ae.models.heads`).

    Parts are any `nn.Module`s of matching shapes, with no base class or registration. Without a decoder the model is a
    classifier; without heads, a plain autoencoder. The likelihood maps the decoder's output to an image, and to a loss
    (`ae.models.likelihoods`; default: `SquaredError`).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module | None = None,
        bottleneck: nn.Module | None = None,
        heads: Mapping[str, nn.Module] | None = None,
        likelihood: nn.Module | None = None,
    ) -> None:
        super().__init__()
        parts = {"encoder": encoder, "decoder": decoder, "bottleneck": bottleneck, "likelihood": likelihood}
        _check_modules(parts, heads)
        self.encoder = encoder
        self.bottleneck = Identity() if bottleneck is None else bottleneck
        self.decoder = decoder
        self.heads = nn.ModuleDict(heads or {})
        self.likelihood = SquaredError() if likelihood is None else likelihood
        self.image_shape: tuple[int, ...] | None = None  # [c h w] of the training images, if known

    def encode(self, images: Float[Tensor, "b c h w"]) -> Code:
        """Images [b c h w] in [0, 1] -> Code; raises InputError for images that the modules reject."""
        try:
            for_heads = any(map(_reads_stages, self.heads.values()))
            if not for_heads and not _reads_stages(self.bottleneck):
                return self.bottleneck(_tensor(self.encoder(images)))
            stages = [images, *_features(self.encoder, images)]
            code = self.bottleneck(stages if _reads_stages(self.bottleneck) else stages[-1])
            return replace(code, stages=stages) if for_heads else code
        except InputError as error:
            raise self._with_expected_shape(error, images) from None

    def decode(self, z: Float[Tensor, "b *code"], size: Sequence[int] | None = None) -> Float[Tensor, "b c h w"]:
        """z, as in `Code.z`, -> images in [0, 1], cropped to `size` = (height, width) if given."""
        return self.likelihood.mean(self.decode_params(z, size))  # type: ignore[operator]  # the likelihoods' contract

    def decode_params(self, z: Float[Tensor, "b *code"], size: Sequence[int] | None = None) -> Float[Tensor, "b _ h w"]:
        """z -> parameters of the likelihood, cropped to `size`; raises InputError if they are smaller, or not 4-d."""
        if self.decoder is None:
            raise InputError("can't decode: the model has no decoder")
        params = self.decoder(self.bottleneck.expand(z))  # type: ignore[operator]  # the bottlenecks' contract
        if not isinstance(params, Tensor) or params.ndim != 4:
            got = list(params.shape) if isinstance(params, Tensor) else type(params).__name__
            raise InputError(f"the decoder must give parameters of the pixels [b c h w], gave {got}")
        params = at_least_float32(params)
        if size is None:
            return params
        height, width = size
        if params.shape[-2] < height or params.shape[-1] < width:
            raise InputError(f"the decoder gives {list(params.shape[-2:])} pixels, fewer than the image's {list(size)}")
        if torch.compiler.is_exporting():
            # a slice would specialise on whether there is anything to crop; negative padding does not
            return F.pad(params, (0, width - params.shape[-1], 0, height - params.shape[-2]))
        return params[..., :height, :width]

    def sample(self, count: int, size: Sequence[int] | None = None) -> Float[Tensor, "n c h w"]:
        """Decode `count` codes from the bottleneck's prior; `size` defaults to that of the training images, if known.

        Codes are projected to the nearest codes that the bottleneck can give. Raises InputError without a prior.
        """
        z = prior_of(self.bottleneck).sample(count)
        project: Any = getattr(self.bottleneck, "project", None)
        if size is None and self.image_shape is not None:
            size = self.image_shape[1:]
        return self.decode(z if project is None else project(z), size)

    def predict(self, code: Code) -> dict[str, Float[Tensor, "b ..."]]:
        """Code -> {head: output}, such as logits [b classes]."""
        return {
            name: at_least_float32(head(code.stages if _reads_stages(head) else code.mean))
            for name, head in self.heads.items()
        }

    def _with_expected_shape(self, error: InputError, images: Tensor) -> InputError:
        """Add the shape of the training images to the error if `images` have another shape."""
        if self.image_shape is None or tuple(images.shape[1:]) == self.image_shape:
            return error
        expected = " ".join(map(str, self.image_shape))
        return InputError(f"the model was trained on images [b {expected}], got {list(images.shape)}: {error}")

    def forward(self, images: Float[Tensor, "b c h w"]) -> Output:
        """Images [b c h w] in [0, 1] -> code, likelihood's parameters, reconstruction, and outputs of all heads."""
        code = self.encode(images)
        params = None if self.decoder is None else self.decode_params(code.z, images.shape[-2:])
        mean = None if params is None else self.likelihood.mean(params)  # type: ignore[operator]
        if mean is not None and not torch.compiler.is_compiling():  # exported models have dynamic sizes
            check_same_shape(mean, images)
        try:
            return Output(code, params, mean, self.predict(code))
        except InputError as error:
            raise self._with_expected_shape(error, images) from None
