"""Pictures that a person looks at, drawn with Pillow."""

import colorsys
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ae.data import Batch, ImageSet
from ae.metrics import evaluating
from ae.model import Autoencoder, Output
from ae.objectives import only_head
from ae.validation import unchecked_range

if TYPE_CHECKING:
    from PIL.Image import Image

_TILE = 64  # pixels of an image's longer side, at least
_GAP = 6
_LEFT = 118  # for the rows' names
_TOP, _BOTTOM = 40, 44
_INK, _FAINT, _PAPER = (30, 30, 30), (120, 120, 120), (255, 255, 255)
_UNLABELLED = (200, 200, 200)
_RIGHT, _WRONG = (20, 120, 60), (200, 30, 30)


def metric_line(metrics: dict[str, float]) -> str:
    """The metrics that a picture is read with, as far as there are any."""
    forms = {"mse": "mse {:.5f} per pixel", "psnr": "psnr {:.2f} dB", "accuracy": "accuracy {:.2%}"}
    return ",  ".join(form.format(metrics[name]) for name, form in forms.items() if name in metrics)


@torch.no_grad()
def reconstruction_picture(model: Autoencoder, images: ImageSet, count: int = 14, title: str = "") -> "Image":
    """The first `count` images above their reconstructions and the error, red where too bright and blue where too dark.

    Under each stand its mean squared error and, where the model has a head, the predicted class, red where it is wrong.
    """
    from PIL import Image, ImageDraw, ImageFont

    batch, output = _look(model, images.select(slice(count)))
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


def grid_picture(images: Float[Tensor, "rows columns c h w"], title: str = "") -> "Image":
    """Images in rows and columns, under a title."""
    from PIL import Image, ImageDraw, ImageFont

    rows, columns, _, height, width = images.shape
    scale = -(-_TILE // max(height, width))
    tile_w, tile_h = width * scale + _GAP, height * scale + _GAP
    canvas = Image.new("RGB", (columns * tile_w + _GAP, _TOP + rows * tile_h), _PAPER)
    ImageDraw.Draw(canvas).text((_GAP, 10), title, _INK, ImageFont.load_default(15))
    for row in range(rows):
        for column in range(columns):
            tile = _to_pillow(images[row, column].float().cpu())
            pasted = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(pasted, (_GAP + column * tile_w, _TOP + row * tile_h))
    return canvas


def pair_pictures(model: Autoencoder, images: ImageSet) -> list["Image"]:
    """A picture for each image: itself, with its reconstruction at its right where the model has a decoder."""
    batch, output = _look(model, images)
    shown = [batch.images.cpu()]
    if output.pixels is not None:
        shown.append(output.reconstruction.float().cpu())
    return [_to_pillow(pair) for pair in torch.cat(shown, dim=3)]


@torch.no_grad()
def code_picture(model: Autoencoder, images: ImageSet, count: int = 1000) -> "Image":
    """The codes of the first `count` images along their two principal components, a dot each, coloured by label."""
    some = images.select(slice(count))
    device = next(model.parameters()).device
    with evaluating(model), unchecked_range():
        codes = [model.encode(batch.images).mean.flatten(1) for batch in some.to(device).in_order(256)]
    places, explained = principal_components(torch.cat(codes).float().cpu())
    title = f"codes of {len(some):,} test images: {', '.join(f'{part:.0%}' for part in explained)} of the variance"
    return scatter_picture(places, some.labels, images.classes, title)


def scatter_picture(
    places: Float[Tensor, "n 2"], labels: Int64[Tensor, " n"], classes: Sequence[str], title: str
) -> "Image":
    """A dot at each place, coloured by its label."""
    from PIL import Image, ImageDraw, ImageFont

    side, legend, margin, radius, fine = 560, 130, 40, 3, 3  # drawn three times as fine, then scaled down
    low, high = places.amin(0), places.amax(0)
    at = margin + (places - low) / (high - low).clamp(min=1e-12) * (side - 2 * margin)
    canvas = Image.new("RGB", (fine * (side + legend), fine * (side + _TOP)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    colours = [_colour(c, len(classes)) for c in range(len(classes))]

    def dot(x: int | float, y: int | float, label: int) -> None:
        box = [fine * v for v in (x - radius, y - radius, x + radius, y + radius)]
        draw.ellipse(box, _UNLABELLED if label < 0 else colours[label])

    for (x, y), label in zip(at.tolist(), labels.tolist(), strict=True):
        dot(x, _TOP + side - y, label)
    font = ImageFont.load_default(15 * fine)
    draw.text((fine * 10, fine * 10), title, _INK, font)
    for label, name in enumerate(classes[:20]):
        y = _TOP + margin + 22 * label
        dot(side + 10, y, label)
        draw.text((fine * (side + 22), fine * y), name[:14], _INK, font, anchor="lm")
    return canvas.resize((side + legend, side + _TOP), Image.Resampling.LANCZOS)


def principal_components(
    points: Float[Tensor, "n d"], count: int = 2
) -> tuple[Float[Tensor, "n {count}"], list[float]]:
    """The points [n d] along their `count` principal components, and each one's part of the variance.

    Of a component's two directions the one whose largest weight is positive. Missing components are 0.
    """
    centred = (points - points.mean(0)).double()
    wanted = min(count, *points.shape)
    if points.shape[0] < points.shape[1]:  # the smaller of the two products has the same eigenvalues
        variances, vectors = torch.linalg.eigh(centred @ centred.T)
        vectors = centred.T @ vectors
    else:
        variances, vectors = torch.linalg.eigh(centred.T @ centred)
    directions = torch.nn.functional.normalize(vectors[:, -wanted:].flip(1), dim=0)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    placed = (centred @ (directions * largest.sign())).float()
    variances = variances.clamp(min=0)
    explained = (variances[-wanted:].flip(0) / variances.sum().clamp(min=1e-12)).tolist()
    return torch.nn.functional.pad(placed, (0, count - wanted)), explained + [0.0] * (count - wanted)


@torch.no_grad()
def _look(model: Autoencoder, images: ImageSet) -> tuple[Batch, Output]:
    """All images as one batch, and what the model makes of them."""
    batch = images.to(next(model.parameters()).device).batch(slice(None))
    with evaluating(model), unchecked_range():
        return batch, model(batch.images)


def _colour(index: int, count: int) -> tuple[int, int, int]:
    """Colours as far apart as `count` of them can be, dark ones between light ones."""
    red, green, blue = colorsys.hsv_to_rgb(index / count, 0.85, 0.9 if index % 2 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def png(picture: "Image") -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def is_picture(value: Any) -> bool:
    """Whether it is one of Pillow's images; without importing Pillow to find out."""
    return type(value).__module__.split(".")[0] == "PIL"


def _signed(errors: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    """White where there is no error, to red where it is +0.25 or more, to blue where it is -0.25 or less."""
    strength = (errors.mean(1) / 0.25).clamp(-1, 1)  # [b h w]
    up, down = strength.clamp(min=0), (-strength).clamp(min=0)
    return torch.stack([1 - down, 1 - up - down, 1 - up], dim=1)


def _to_pillow(image: Float[Tensor, "c h w"]) -> "Image":
    from PIL import Image

    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())
