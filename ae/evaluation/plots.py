"""Pictures of reconstructions, samples and codes, drawn with Pillow."""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ae.data import Batch, ImageSet
from ae.data.targets import classes_of
from ae.evaluation.inference import encode_batches, evaluating
from ae.evaluation.metrics import METRICS, TITLE
from ae.models.autoencoder import Autoencoder, Output
from ae.models.heads import Head, heads_of, is_classifier
from ae.objectives import Corruption
from ae.utils.console import say
from ae.utils.errors import InputError, one_line
from ae.utils.seeding import reseed

if TYPE_CHECKING:
    from PIL.Image import Image

Value = TypeVar("Value")

_TILE = 64  # pixels of an image's longer side, at least
_LARGEST = 256  # pixels of a tile's longer side, at most: 14 images of 4,000 pixels would take gigabytes
_GAP = 6
_LEFT = 118  # pixels for names of rows
_TOP, _BOTTOM = 40, 44
_INK, _FAINT, _PAPER = (30, 30, 30), (120, 120, 120), (255, 255, 255)
_LEGEND = 20  # classes in a legend
_LAST_LETTER = 0x17F  # last code point that Pillow's default font has: Latin with accents
_UNLABELLED = (200, 200, 200)
_RIGHT, _WRONG = (20, 120, 60), (200, 30, 30)


def metric_line(metrics: dict[str, float]) -> str:
    """Format the metrics in the title of a picture, as far as they are measured."""
    return ",  ".join(f"{name} {METRICS[name].text(metrics[name])}" for name in TITLE if name in metrics)


def drawn(makes: Mapping[str, Callable[[], Value]]) -> dict[str, Value]:
    """Draw pictures by name; a failure is printed on stderr, so that no picture can end a training."""
    pictures = {}
    for name, make in makes.items():
        try:
            pictures[name] = make()
        except Exception as error:  # raised by a model, a font or an image
            say(f"no picture {name}: {one_line(error)}", error=True)
    return pictures


def reconstruction_picture(
    model: Autoencoder, images: ImageSet, count: int = 14, title: str = "", corruption: Corruption | None = None
) -> "Image":
    """Draw the first `count` images above their reconstructions and the error: red too bright, blue too dark.

    With a `corruption`, the rows are originals, corrupted images, restored images and the error. Below each column are
    its mean squared error and, if the model has one head, the predicted class, red if it is wrong.
    """
    from PIL import Image, ImageDraw, ImageFont

    batch, inputs, output = _reconstruct(model, images.select(slice(count)), corruption)
    originals, reconstructions = batch.images.cpu(), output.reconstruction.float().cpu()
    errors = reconstructions - originals
    rows = {"original": originals, "reconstruction": reconstructions, "error": _signed(errors)}
    if corruption is not None:
        rows = {"original": originals, "corrupted": inputs.cpu(), "restored": reconstructions, "error": _signed(errors)}
    tile_h, tile_w = _tile_size(*images.shape[1:])
    step_h, step_w = tile_h + _GAP, tile_w + _GAP
    canvas = Image.new("RGB", (_LEFT + len(originals) * step_w + _GAP, _TOP + len(rows) * step_h + _BOTTOM), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    draw.text((_GAP + 4, 10), _titled(title, images.shape[0]), _INK, font)
    for row, (name, tiles) in enumerate(rows.items()):
        top = _TOP + row * step_h
        draw.text((_GAP + 4, top + step_h // 2), name, _INK, font, anchor="lm")
        for column, tile in enumerate(tiles):
            canvas.paste(_to_pillow(tile), (_LEFT + column * step_w, top))
    bottom = _TOP + len(rows) * step_h
    draw.text((_GAP + 4, bottom + 8), "error / pixel", _FAINT, small, anchor="lm")
    for column, mse in enumerate(errors.square().flatten(1).mean(1).tolist()):
        middle = _LEFT + column * step_w + tile_w // 2
        draw.text((middle, bottom + 8), f"{mse:.4f}", _FAINT, small, anchor="mm")
    for name, head in _classifiers(model).items():
        draw.text((_GAP + 4, bottom + 28), "classified as", _INK, font, anchor="lm")
        predictions, labels = output.predictions[name].argmax(1).tolist(), batch.target(head.target).tolist()
        for column, (predicted, label) in enumerate(zip(predictions, labels, strict=True)):
            middle = _LEFT + column * step_w + tile_w // 2
            colour = _RIGHT if predicted == label else _INK if label < 0 else _WRONG
            classes = classes_of(images, head.target)
            text = _drawable(class_name(classes, predicted), predicted, letters=max(3, step_w // 8))
            draw.text((middle, bottom + 28), text, colour, font, anchor="mm")
    return canvas


def _classifiers(model: Autoencoder) -> dict[str, Head]:
    """The first head of a model that predicts the class of an image, if there is one."""
    classifiers = {name: head for name, head in heads_of(model).items() if is_classifier(head)}
    return dict(list(classifiers.items())[:1])


def grid_picture(
    images: Float[Tensor, "rows columns c h w"],
    title: str = "",
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> "Image":
    """Draw a grid of images under a title, with names of rows at the left and names of columns above."""
    from PIL import Image, ImageDraw, ImageFont

    rows, columns, channels, height, width = images.shape
    tile_h, tile_w = _tile_size(height, width)
    step_h, step_w = tile_h + _GAP, tile_w + _GAP
    left, top = _LEFT if row_names else _GAP, _TOP + (20 if column_names else 0)
    canvas = Image.new("RGB", (left + columns * step_w, top + rows * step_h), _PAPER)
    draw, font, small = ImageDraw.Draw(canvas), ImageFont.load_default(15), ImageFont.load_default(12)
    draw.text((_GAP, 10), _titled(title, channels), _INK, font)
    for column, name in enumerate(column_names):
        draw.text((left + column * step_w + tile_w // 2, _TOP + 6), name, _FAINT, small, anchor="mm")
    for row, name in enumerate(row_names):
        draw.text((_GAP + 4, top + row * step_h + tile_h // 2), name, _INK, font, anchor="lm")
    for row in range(rows):
        for column in range(columns):
            tile = _to_pillow(images[row, column].float().cpu())
            canvas.paste(tile, (left + column * step_w, top + row * step_h))
    return canvas


def pair_pictures(model: Autoencoder, images: ImageSet) -> list["Image"]:
    """Draw each image beside its reconstruction, or alone if the model has no decoder.

    Each tile has the image's size, up to 256 pixels on the longer side.
    """
    batch, _, output = _reconstruct(model, images)
    tiles = [batch.images.cpu()]
    if output.params is not None:
        tiles.append(output.reconstruction.float().cpu())
    return [_to_pillow(pair, least=1) for pair in torch.cat(tiles, dim=3)]


def code_picture(model: Autoencoder, images: ImageSet, count: int = 1000) -> "Image":
    """Plot the codes of the first `count` images along their two principal components, coloured by label."""
    some = images.select(slice(count))
    codes = torch.cat(list(encode_batches(model, some, lambda _, code: code.mean.flatten(1)))).float().cpu()
    if not codes.isfinite().all():
        raise InputError("some codes are NaN or infinite")
    points, explained = principal_components(codes)
    axes = [f"principal component {i + 1}, {share:.0%} of the variance" for i, share in enumerate(explained)]
    return scatter_picture(points, some.labels, images.classes, f"codes of {len(some):,} test images by PCA", axes)


def scatter_picture(
    points: Float[Tensor, "n 2"],
    labels: Int64[Tensor, " n"],
    classes: Sequence[str],
    title: str,
    axes: Sequence[str] = ("", ""),
) -> "Image":
    """Draw a scatter plot, coloured by label; `axes` are the names of the horizontal and the vertical axis.

    The legend has the first 20 classes.
    """
    from PIL import Image, ImageDraw, ImageFont

    side, legend, margin, radius, fine = 560, 130, 40, 3, 3  # drawn at three times the size, then scaled down
    low, high = points.amin(0), points.amax(0)
    pixels = margin + (points - low) / (high - low).clamp(min=1e-12) * (side - 2 * margin)
    canvas = Image.new("RGB", (fine * (side + legend), fine * (side + _TOP)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    colours = [_colour(c, len(classes)) for c in range(len(classes))]

    def dot(x: int | float, y: int | float, label: int) -> None:
        box = [fine * v for v in (x - radius, y - radius, x + radius, y + radius)]
        draw.ellipse(box, _UNLABELLED if label < 0 else colours[label])

    for (x, y), label in zip(pixels.tolist(), labels.tolist(), strict=True):
        dot(x, _TOP + side - y, label)
    font, small = ImageFont.load_default(15 * fine), ImageFont.load_default(12 * fine)
    draw.text((fine * 10, fine * 10), _titled(title), _INK, font)
    horizontal, vertical = axes
    draw.text((fine * side / 2, fine * (_TOP + side - 12)), horizontal, _FAINT, small, anchor="mm")
    rotated = Image.new("L", (fine * side, fine * 20))
    ImageDraw.Draw(rotated).text((fine * side / 2, fine * 10), vertical, 255, small, anchor="mm")
    canvas.paste(_FAINT, (fine * 2, fine * _TOP), rotated.transpose(Image.Transpose.ROTATE_90))
    for label, name in enumerate(classes[:_LEGEND]):
        y = _TOP + margin + 22 * label
        dot(side + 10, y, label)
        draw.text((fine * (side + 22), fine * y), _drawable(name, label, letters=14), _INK, font, anchor="lm")
    if len(classes) > _LEGEND:
        more = f"and {len(classes) - _LEGEND:,} more"
        draw.text((fine * (side + 22), fine * (_TOP + margin + 22 * _LEGEND)), more, _FAINT, font, anchor="lm")
    return canvas.resize((side + legend, side + _TOP), Image.Resampling.LANCZOS)


def principal_components(
    points: Float[Tensor, "n d"], count: int = 2
) -> tuple[Float[Tensor, "n {count}"], list[float]]:
    """Project points [n d] onto their `count` principal components; returns them and the explained variance ratios.

    The sign of a component makes its largest weight positive. Missing components are 0.
    """
    centred = (points - points.mean(0)).double()
    rank = min(count, *points.shape)
    if points.shape[0] < points.shape[1]:  # the smaller Gram matrix has the same eigenvalues
        variances, vectors = torch.linalg.eigh(centred @ centred.T)
        vectors = centred.T @ vectors
    else:
        variances, vectors = torch.linalg.eigh(centred.T @ centred)
    directions = torch.nn.functional.normalize(vectors[:, -rank:].flip(1), dim=0)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    projected = (centred @ (directions * largest.sign())).float()
    variances = variances.clamp(min=0)
    explained = (variances[-rank:].flip(0) / variances.sum().clamp(min=1e-12)).tolist()
    return torch.nn.functional.pad(projected, (0, count - rank)), explained + [0.0] * (count - rank)


def _reconstruct(
    model: Autoencoder, images: ImageSet, corruption: Corruption | None = None
) -> tuple[Batch, Float[Tensor, "b c h w"], Output]:
    """Return all images as one batch, the model's input and its output; noise is the same at every call."""
    device = next(model.parameters()).device
    batch = images.to(device).batch(slice(None))
    with evaluating(model, fork_rng=True):
        reseed(device, "picture")
        inputs = batch.images if corruption is None else corruption(batch.images)[0]
        return batch, inputs, model(inputs)


def class_name(classes: Sequence[str], index: int) -> str:
    """Return the name of a class, or `#index` for an index without a name."""
    return classes[index] if index < len(classes) else f"#{index}"


def _drawable(name: str, index: int, letters: int) -> str:
    """Shorten a class name; `#index` replaces a name that Pillow's default font lacks letters for."""
    name = one_line(name)
    if not name.isprintable() or any(ord(letter) > _LAST_LETTER for letter in name):
        name = f"#{index}"
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _titled(title: str, channels: int = 1) -> str:
    """Add to a title how images with another number of channels than 1 or 3 are drawn."""
    note = {1: "", 2: "mean of 2 channels", 3: ""}.get(channels, f"first 3 of {channels} channels as red, green, blue")
    text = f"{title} ({note})" if note and title else title or note
    return "".join(letter if ord(letter) <= _LAST_LETTER or letter == "…" else "?" for letter in text)


def _colour(index: int, count: int) -> tuple[int, int, int]:
    """Return one of `count` evenly spaced hues, alternately light and dark."""
    red, green, blue = colorsys.hsv_to_rgb(index / count, 0.85, 0.9 if index % 2 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def _signed(errors: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    """Map errors to colours: white at 0, red from +0.25, blue from -0.25."""
    strength = (errors.mean(1) / 0.25).clamp(-1, 1)  # [b h w]
    up, down = strength.clamp(min=0), (-strength).clamp(min=0)
    return torch.stack([1 - down, 1 - up - down, 1 - up], dim=1)


def _tile_size(height: int, width: int, least: int = _TILE) -> tuple[int, int]:
    """Return the size of a tile in pixels: a whole multiple of the image's size, or less for a large image."""
    longer = max(height, width)
    if longer > _LARGEST:
        return max(1, height * _LARGEST // longer), max(1, width * _LARGEST // longer)
    scale = -(-least // longer)
    return height * scale, width * scale


def _to_pillow(image: Float[Tensor, "c h w"], least: int = _TILE) -> "Image":
    """Convert an image to a tile: 2 channels are averaged; of 4 or more the first three are red, green and blue."""
    from PIL import Image

    colours = image.mean(0, keepdim=True) if len(image) == 2 else image[:3]
    levels = (colours.clamp(0, 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    height, width = _tile_size(image.shape[1], image.shape[2], least)
    is_larger = picture.width > width or picture.height > height
    return picture.resize((width, height), Image.Resampling.BOX if is_larger else Image.Resampling.NEAREST)
