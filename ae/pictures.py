"""Pictures that a person looks at, drawn with Pillow."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ae.checks import unchecked_range
from ae.data import Images
from ae.metrics import evaluating
from ae.model import Autoencoder
from ae.objectives import only_head

if TYPE_CHECKING:
    from PIL.Image import Image

_TILE = 64  # pixels of an image's longer side, at least
_GAP = 6
_LEFT = 118  # for the rows' names
_TOP, _BOTTOM = 40, 44
_INK, _FAINT, _PAPER = (30, 30, 30), (120, 120, 120), (255, 255, 255)
_RIGHT, _WRONG = (20, 120, 60), (200, 30, 30)


@torch.no_grad()
def reconstruction_picture(model: Autoencoder, images: Images, count: int = 14, title: str = "") -> "Image":
    """The first `count` images above their reconstructions and the error, red where too bright and blue where too dark.

    Under each stand its mean squared error and, where the model has a head, the predicted class, red where it is wrong.
    """
    from PIL import Image, ImageDraw, ImageFont

    batch = images.select(slice(count)).to(next(model.parameters()).device).batch(slice(None))
    with evaluating(model), unchecked_range():
        output = model(batch.images)
    originals, reconstructions = batch.images.cpu(), output.reconstruction.float().cpu()
    errors = reconstructions - originals
    rows = {"original": originals, "reconstruction": reconstructions, "error": _signed(errors)}
    _, height, width = images.shape
    scale = -(-_TILE // max(height, width))
    tile_w, tile_h = width * scale + _GAP, height * scale + _GAP
    canvas = Image.new("RGB", (_LEFT + len(originals) * tile_w + _GAP, _TOP + 3 * tile_h + _BOTTOM), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    draw.text((_GAP + 4, 10), title, _INK, font)
    for row, (name, tiles) in enumerate(rows.items()):
        top = _TOP + row * tile_h
        draw.text((_GAP + 4, top + tile_h // 2), name, _INK, font, anchor="lm")
        for column, tile in enumerate(tiles):
            pasted = _to_pillow(tile).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(pasted, (_LEFT + column * tile_w, top))
    bottom = _TOP + 3 * tile_h
    draw.text((_GAP + 4, bottom + 8), "error / pixel", _FAINT, small, anchor="lm")
    for column, mse in enumerate(errors.square().flatten(1).mean(1).tolist()):
        middle = _LEFT + column * tile_w + width * scale // 2
        draw.text((middle, bottom + 8), f"{mse:.4f}", _FAINT, small, anchor="mm")
    if len(output.logits) == 1:
        draw.text((_GAP + 4, bottom + 28), "classified as", _INK, font, anchor="lm")
        predictions = only_head(output.logits).argmax(1).tolist()
        for column, (predicted, label) in enumerate(zip(predictions, batch.labels.tolist(), strict=True)):
            middle = _LEFT + column * tile_w + width * scale // 2
            colour = _RIGHT if predicted == label else _INK if label < 0 else _WRONG
            draw.text((middle, bottom + 28), images.classes[predicted], colour, font, anchor="mm")
    return canvas


def _signed(errors: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    """White where there is no error, to red where it is +0.25 or more, to blue where it is -0.25 or less."""
    strength = (errors.mean(1) / 0.25).clamp(-1, 1)  # [b h w]
    up, down = strength.clamp(min=0), (-strength).clamp(min=0)
    return torch.stack([1 - down, 1 - up - down, 1 - up], dim=1)


def _to_pillow(image: Float[Tensor, "c h w"]) -> "Image":
    from PIL import Image

    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())
