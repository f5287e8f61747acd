"""Masked autoencoder: an encoder of visible patches, and a decoder that predicts the hidden ones."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.data import Batch
from ae.functional import at_least_float32
from ae.models.autoencoder import Autoencoder
from ae.models.decoders import ViTDecoder
from ae.models.encoders import ViTEncoder
from ae.models.transformer import images_of, pad_to_multiple, patches_of
from ae.objectives.joint import Loss
from ae.utils.errors import InputError
from ae.utils.validation import Fraction, checked_arguments


class MAE(nn.Module):
    """Prediction of hidden patches; the model's encoder, a `ViTEncoder`, sees the visible ones only.

    He et al. 2022, section 3. The decoder belongs to the objective: after the training it has no use. It predicts
    pixels at the scale of the encoder's input, and the loss is the mean squared error of the hidden ones.

    hidden      fraction of the patches, chosen at random for each image; one at least is hidden, and one visible
    normalised  predict each patch after subtraction of its mean and division by its deviation

    Terms: `hidden_mse`, the mean squared error per hidden pixel of images in [0, 1], or of normalised patches.
    """

    @checked_arguments
    def __init__(self, decoder: ViTDecoder, hidden: Fraction = 0.75, normalised: bool = False) -> None:
        super().__init__()
        self.decoder, self.hidden, self.normalised = decoder, hidden, normalised

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        encoder = _encoder_of(model, self.decoder)
        order = self.order(encoder, batch.images)
        predicted, targets = self._predicted(encoder, batch.images, order), self._targets(encoder, batch.images)
        hidden = order[:, self._visible_count(order.shape[1]) :, None]
        errors = (predicted.take_along_dim(hidden, 1) - targets.take_along_dim(hidden, 1)).square()
        loss = batch.mean(errors.flatten(1).mean(1))
        in_pixels = 1.0 if self.normalised else encoder.std.float().square().mean()
        return Loss(loss, {"hidden_mse": loss.detach() * in_pixels})

    def order(self, encoder: ViTEncoder, images: Float[Tensor, "b c h w"]) -> Int64[Tensor, "b n"]:
        """Draw a random order of the patches of each image; the first are visible."""
        rows, columns = (-(-size // encoder.patch) for size in images.shape[-2:])
        return torch.rand(len(images), rows * columns, device=images.device).argsort(1)

    def restored(
        self, encoder: ViTEncoder, images: Float[Tensor, "b c h w"], order: Int64[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return the images with hidden patches black, and with hidden patches as they are predicted, in [0, 1].

        Predictions of normalised patches get mean and deviation of the true ones, which the model does not know.
        """
        rows, height, width = -(-images.shape[-2] // encoder.patch), *images.shape[-2:]
        hidden = order[:, self._visible_count(order.shape[1]) :, None]
        predicted = self._predicted(encoder, images, order)
        true = patches_of(pad_to_multiple(encoder.normalised(images), encoder.patch), encoder.patch)
        if self.normalised:
            mean, std = _moments(true)
            predicted = predicted * std + mean
        filled = true.scatter(1, hidden.expand(-1, -1, true.shape[2]), predicted.take_along_dim(hidden, 1))
        shown = patches_of(pad_to_multiple(images, encoder.patch), encoder.patch)
        shown = shown.scatter(1, hidden.expand(-1, -1, shown.shape[2]), torch.zeros_like(shown))
        pixels = images_of(filled, encoder.patch, rows) * encoder.std + encoder.mean
        cut = (..., slice(height), slice(width))
        return images_of(shown, encoder.patch, rows)[cut], pixels.clamp(0, 1)[cut]

    def _visible_count(self, patches: int) -> int:
        return min(max(round(patches * (1 - self.hidden)), 1), max(patches - 1, 1))

    def _predicted(
        self, encoder: ViTEncoder, images: Float[Tensor, "b c h w"], order: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n p"]:
        """Predictions of all patches from the visible ones."""
        keep = order[:, : self._visible_count(order.shape[1])]
        rows, columns = (-(-size // encoder.patch) for size in images.shape[-2:])
        pixels = self.decoder.fill(encoder.tokens(images, keep), keep, rows, columns)
        return patches_of(at_least_float32(pixels), encoder.patch)

    def _targets(self, encoder: ViTEncoder, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n p"]:
        patches = patches_of(pad_to_multiple(encoder.normalised(images), encoder.patch), encoder.patch)
        if not self.normalised:
            return patches
        mean, std = _moments(patches)
        return (patches - mean) / std


def _moments(patches: Float[Tensor, "b n p"]) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
    """Mean and deviation of each patch, as in the code of He et al. 2022."""
    variance, mean = torch.var_mean(patches, 2, keepdim=True, correction=1 if patches.shape[2] > 1 else 0)
    return mean, (variance + 1e-6).sqrt()


def _encoder_of(model: Autoencoder, decoder: ViTDecoder) -> ViTEncoder:
    encoder = model.encoder
    if not isinstance(encoder, ViTEncoder):
        raise InputError(f"MAE hides patches from a ViTEncoder, got {type(encoder).__name__}")
    if (decoder.patch, decoder.in_channels, decoder.out_channels) != (
        encoder.patch,
        encoder.width,
        encoder.in_channels,
    ):
        wanted = f"in_channels={encoder.width}, out_channels={encoder.in_channels}, patch={encoder.patch}"
        raise InputError(f"MAE's decoder must fit the encoder: ViTDecoder({wanted})")
    return encoder
