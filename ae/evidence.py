"""What a run shows of its test images beside their mean metrics: pictures, and tables of those that it fails on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ae.data import ImageSet
from ae.files import write_whole
from ae.metrics import Examined
from ae.model import Autoencoder
from ae.pictures import code_picture, is_picture, metric_line, pair_pictures, png, reconstruction_picture

if TYPE_CHECKING:
    from PIL.Image import Image

_ROWS = 32  # of each table


@dataclass(frozen=True)
class Table:
    """Rows of numbers, strings and pictures."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Evidence:
    """Pictures and tables by name; in a folder, pictures as `NAME.png` and tables as `tables/NAME.json`."""

    pictures: dict[str, "Image"] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it to a folder; a table's pictures are beside it, and named in its cells."""
        for name, picture in self.pictures.items():
            write_whole(folder / f"{name}.png", png(picture))
        for name, table in self.tables.items():
            (folder / "tables").mkdir(exist_ok=True)
            rows = []
            for number, row in enumerate(table.rows):
                cells = list(row)
                for i, cell in enumerate(row):
                    if is_picture(cell):
                        cells[i] = f"{name}-{number:02d}.png"
                        write_whole(folder / "tables" / cells[i], png(cell))
                rows.append(cells)
            content = json.dumps({"columns": table.columns, "rows": rows})
            write_whole(folder / "tables" / f"{name}.json", content.encode())

    @classmethod
    def load(cls, folder: Path) -> "Evidence":
        """Read what `save` wrote."""
        tables = {}
        for path in sorted((folder / "tables").glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = [tuple(_cell(path.parent, cell) for cell in row) for row in content["rows"]]
            tables[path.stem] = Table(tuple(content["columns"]), rows)
        pictures = {path.stem: _read_picture(path) for path in sorted(folder.glob("*.png"))}
        return cls(pictures, tables)


def _cell(folder: Path, cell: Any) -> Any:
    return _read_picture(folder / cell) if isinstance(cell, str) and cell.endswith(".png") else cell


def _read_picture(path: Path) -> "Image":
    from PIL import Image

    with Image.open(path) as picture:
        return picture.copy()


def gather(model: Autoencoder, images: ImageSet, examined: Examined) -> Evidence:
    """The evidence on `images`, of which `examined` holds the metrics of each.

    pictures  `reconstructions`, some of each class; `code`, its two principal components
    tables    `worst_reconstructed`, by squared error; `misclassified`, by cross-entropy; `confusion`, counted
    """
    pictures = {"code": code_picture(model, images)}
    tables = {}
    if model.decoder is not None:
        title = f"test images: {metric_line(examined.means())}"
        some = images.select(_of_each_class(images))
        pictures["reconstructions"] = reconstruction_picture(model, some, title=title)
        worst = examined.values["mse"].argsort(descending=True)
        tables["worst_reconstructed"] = _table(model, images, examined, worst[:_ROWS])
    if examined.predictions is None:
        return Evidence(pictures, tables)
    worst = examined.values["cross_entropy"].argsort(descending=True)
    wrong = (examined.labels >= 0) & (examined.predictions != examined.labels)
    tables["misclassified"] = _table(model, images, examined, worst[wrong[worst]][:_ROWS])
    tables["confusion"] = _confusion(examined.labels, examined.predictions, images.classes)
    return Evidence(pictures, tables)


def _table(model: Autoencoder, images: ImageSet, examined: Examined, index: Int64[Tensor, " m"]) -> Table:
    """A row for each of these images: picture, label, prediction and errors, as far as they apply."""
    metrics = [name for name in ("mse", "cross_entropy") if name in examined.values]
    classifies = examined.predictions is not None
    pictures = pair_pictures(model, images.select(index)) if len(index) else []
    rows = []
    for i, picture in zip(index.tolist(), pictures, strict=True):
        label = images.classes[examined.labels[i]] if examined.labels[i] >= 0 else ""
        prediction = [] if examined.predictions is None else [images.classes[examined.predictions[i]]]
        rows.append((i, picture, label, *prediction, *(examined.values[name][i].item() for name in metrics)))
    return Table(("index", "picture", "label", *(["prediction"] if classifies else []), *metrics), rows)


def _confusion(labels: Int64[Tensor, " n"], predictions: Int64[Tensor, " n"], classes: tuple[str, ...]) -> Table:
    """How often each class was taken for each; its columns are named as W&B's chart expects them."""
    count, labelled = len(classes), labels >= 0
    cells = (labels[labelled] * count + predictions[labelled]).bincount(minlength=count * count).tolist()
    rows = [(classes[i // count], classes[i % count], number) for i, number in enumerate(cells)]
    return Table(("Actual", "Predicted", "nPredictions"), rows)


def _of_each_class(images: ImageSet) -> Int64[Tensor, " n"]:
    """An order of the images: the first of each class, then the second of each, and so on."""
    rank = torch.zeros_like(images.labels)
    for label in images.labels.unique():
        members = images.labels == label
        rank[members] = torch.arange(int(members.sum()))
    return (rank * (len(images.classes) + 1) + images.labels).argsort()
