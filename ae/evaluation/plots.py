"""Pictures that a person looks at, drawn with Pillow."""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ae.data import Batch, ImageSet
from ae.evaluation.metrics import evaluating
from ae.models.autoencoder import Autoencoder, Output
from ae.objectives import Corruption, only_head
from ae.utils.console import say
from ae.utils.errors import InputError, one_line
from ae.utils.seeding import reseed
from ae.utils.validation import unchecked_range

if TYPE_CHECKING:
    from PIL.Image import Image

Value = TypeVar("Value")

_TILE = 64  # pixels of an image's longer side, at least
_LARGEST = 256  # pixels of a tile's longer side, at most: 14 images of 4,000 pixels would take gigabytes
_GAP = 6
_LEFT = 118  # for the rows' names
_TOP, _BOTTOM = 40, 44
_INK, _FAINT, _PAPER = (30, 30, 30), (120, 120, 120), (255, 255, 255)
_LEGEND = 20  # classes in a legend
_LAST_LETTER = 0x17F  # of those that Pillow's own font draws: Latin with its accents
_UNLABELLED = (200, 200, 200)
_RIGHT, _WRONG = (20, 120, 60), (200, 30, 30)


def metric_line(metrics: dict[str, float]) -> str:
    """The metrics that a picture is read with, as far as there are any."""
    forms = {"mse": "mse {:.5f} per pixel", "psnr": "psnr {:.2f} dB", "accuracy": "accuracy {:.2%}"}
    return ",  ".join(form.format(metrics[name]) for name, form in forms.items() if name in metrics)


def drawn(makes: Mapping[str, Callable[[], Value]]) -> dict[str, Value]:
    """Draw pictures by name; print a line on stderr for each that fails, since no picture is worth a training."""
    made = {}
    for name, make in makes.items():
        try:
            made[name] = make()
        except Exception as error:  # whatever a model, a font or an image leads to
            say(f"no picture {name}: {one_line(error)}", error=True)
    return made


@torch.no_grad()
def reconstruction_picture(
    model: Autoencoder, images: ImageSet, count: int = 14, title: str = "", corruption: Corruption | None = None
) -> "Image":
    """The first `count` images above their reconstructions and the error, red where too bright and blue where too dark.

    With a `corruption`: originals, corrupted images, what the model restores of these, and the error. Under each stand
    its mean squared error and, where the model has a head, the predicted class, red where it is wrong.
    """
    from PIL import Image, ImageDraw, ImageFont

    batch, given, output = _look(model, images.select(slice(count)), corruption)
    originals, reconstructions = batch.images.cpu(), output.reconstruction.float().cpu()
    errors = reconstructions - originals
    rows = {"original": originals, "reconstruction": reconstructions, "error": _signed(errors)}
    if corruption is not None:
        rows = {"original": originals, "corrupted": given.cpu(), "restored": reconstructions, "error": _signed(errors)}
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
    if len(output.logits) == 1:
        draw.text((_GAP + 4, bottom + 28), "classified as", _INK, font, anchor="lm")
        predictions = only_head(output.logits).argmax(1).tolist()
        for column, (predicted, label) in enumerate(zip(predictions, batch.labels.tolist(), strict=True)):
            middle = _LEFT + column * step_w + tile_w // 2
            colour = _RIGHT if predicted == label else _INK if label < 0 else _WRONG
            name = _shown(class_name(images.classes, predicted), predicted, letters=max(3, step_w // 8))
            draw.text((middle, bottom + 28), name, colour, font, anchor="mm")
    return canvas


def grid_picture(
    images: Float[Tensor, "rows columns c h w"],
    title: str = "",
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> "Image":
    """Images in rows and columns, under a title; the rows' names stand at their left, the columns' above them."""
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
    """A picture for each image: itself, with its reconstruction at its right where the model has a decoder.

    As large as the images are, up to 256 pixels of the longer side.
    """
    batch, _, output = _look(model, images)
    shown = [batch.images.cpu()]
    if output.params is not None:
        shown.append(output.reconstruction.float().cpu())
    return [_to_pillow(pair, least=1) for pair in torch.cat(shown, dim=3)]


@torch.no_grad()
def code_picture(model: Autoencoder, images: ImageSet, count: int = 1000) -> "Image":
    """The codes of the first `count` images along their two principal components, a dot each, coloured by label."""
    some = images.select(slice(count))
    device = next(model.parameters()).device
    with evaluating(model), unchecked_range():
        found = [model.encode(batch.images).mean.flatten(1) for batch in some.to(device).in_order(256)]
    codes = torch.cat(found).float().cpu()
    if not codes.isfinite().all():
        raise InputError("some codes are NaN or infinite")
    places, explained = principal_components(codes)
    axes = [f"principal component {i + 1}, {part:.0%} of the variance" for i, part in enumerate(explained)]
    return scatter_picture(places, some.labels, images.classes, f"codes of {len(some):,} test images by PCA", axes)


def scatter_picture(
    places: Float[Tensor, "n 2"],
    labels: Int64[Tensor, " n"],
    classes: Sequence[str],
    title: str,
    axes: Sequence[str] = ("", ""),
) -> "Image":
    """A dot at each place, coloured by its label; `axes` are the names of what goes to the right, and of what goes up.

    The legend has the first 20 classes.
    """
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
    font, small = ImageFont.load_default(15 * fine), ImageFont.load_default(12 * fine)
    draw.text((fine * 10, fine * 10), _titled(title), _INK, font)
    across, up = axes
    draw.text((fine * side / 2, fine * (_TOP + side - 12)), across, _FAINT, small, anchor="mm")
    upright = Image.new("L", (fine * side, fine * 20))
    ImageDraw.Draw(upright).text((fine * side / 2, fine * 10), up, 255, small, anchor="mm")
    canvas.paste(_FAINT, (fine * 2, fine * _TOP), upright.transpose(Image.Transpose.ROTATE_90))
    for label, name in enumerate(classes[:_LEGEND]):
        y = _TOP + margin + 22 * label
        dot(side + 10, y, label)
        draw.text((fine * (side + 22), fine * y), _shown(name, label, letters=14), _INK, font, anchor="lm")
    if len(classes) > _LEGEND:
        more = f"and {len(classes) - _LEGEND:,} more"
        draw.text((fine * (side + 22), fine * (_TOP + margin + 22 * _LEGEND)), more, _FAINT, font, anchor="lm")
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
def _look(
    model: Autoencoder, images: ImageSet, corruption: Corruption | None = None
) -> tuple[Batch, Float[Tensor, "b c h w"], Output]:
    """All images as one batch, what the model is given of them, and what it makes of that; the same at every call."""
    device = next(model.parameters()).device
    batch = images.to(device).batch(slice(None))
    with evaluating(model), unchecked_range(), torch.random.fork_rng():
        reseed(device, "picture")
        given = batch.images if corruption is None else corruption(batch.images)[0]
        return batch, given, model(given)


def class_name(classes: Sequence[str], index: int) -> str:
    """The name of a class; of one more than there are names, its number."""
    return classes[index] if index < len(classes) else f"#{index}"


def _shown(name: str, index: int, letters: int) -> str:
    """A class's name as Pillow's own font can draw it: shortened, and a number where it is in another script."""
    name = " ".join(name.split())
    if not name.isprintable() or any(ord(letter) > _LAST_LETTER for letter in name):
        name = f"#{index}"
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _titled(title: str, channels: int = 1) -> str:
    """The title, with what is shown of images that are neither grey nor of three colours."""
    shown = {1: "", 2: "mean of 2 channels", 3: ""}.get(channels, f"first 3 of {channels} channels as red, green, blue")
    whole = f"{title} ({shown})" if shown and title else title or shown
    return "".join(letter if ord(letter) <= _LAST_LETTER or letter == "…" else "?" for letter in whole)


def _colour(index: int, count: int) -> tuple[int, int, int]:
    """Colours as far apart as `count` of them can be, dark ones between light ones."""
    red, green, blue = colorsys.hsv_to_rgb(index / count, 0.85, 0.9 if index % 2 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def _signed(errors: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    """White where there is no error, to red where it is +0.25 or more, to blue where it is -0.25 or less."""
    strength = (errors.mean(1) / 0.25).clamp(-1, 1)  # [b h w]
    up, down = strength.clamp(min=0), (-strength).clamp(min=0)
    return torch.stack([1 - down, 1 - up - down, 1 - up], dim=1)


def _tile_size(height: int, width: int, least: int = _TILE) -> tuple[int, int]:
    """Size in pixels at which an image is shown: a whole multiple of its own, or smaller where it is large."""
    longer = max(height, width)
    if longer > _LARGEST:
        return max(1, height * _LARGEST // longer), max(1, width * _LARGEST // longer)
    scale = -(-least // longer)
    return height * scale, width * scale


def _to_pillow(image: Float[Tensor, "c h w"], least: int = _TILE) -> "Image":
    """An image as a tile: grey, or of three colours; of 2 channels the mean, of 4 or more the first three."""
    from PIL import Image

    colours = image.mean(0, keepdim=True) if len(image) == 2 else image[:3]
    levels = (colours.clamp(0, 1) * 255).round().to(torch.uint8)
    whole = Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    height, width = _tile_size(image.shape[1], image.shape[2], least)
    is_larger = whole.width > width or whole.height > height
    return whole.resize((width, height), Image.Resampling.BOX if is_larger else Image.Resampling.NEAREST)
