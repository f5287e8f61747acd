"""Pictures and tables of a run, and their files."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ae.utils.errors import InputError, one_line
from ae.utils.files import json_text, read_bytes, read_json, write_whole

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Table:
    """A table whose cells are numbers, strings and pictures."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Media:
    """Pictures and tables by name; in a folder, pictures as `NAME.png` and tables as `tables/NAME.json`."""

    pictures: dict[str, "Image"] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write all files to a folder; a table names its pictures, which lie beside it."""
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
            content = json_text({"columns": table.columns, "rows": rows})
            write_whole(folder / "tables" / f"{name}.json", content.encode())

    @classmethod
    def load(cls, folder: Path) -> "Media":
        """Read the files of `save`; raises InputError that names a broken file."""
        tables = {path.stem: _read_table(path) for path in sorted((folder / "tables").glob("*.json"))}
        pictures = {path.stem: _read_picture(path) for path in sorted(folder.glob("*.png"))}
        return cls(pictures, tables)


def _read_table(path: Path) -> Table:
    content = read_json(path)
    match content:
        case {"columns": list(columns), "rows": list(rows)} if all(isinstance(row, list) for row in rows):
            if all(isinstance(name, str) for name in columns) and all(len(row) == len(columns) for row in rows):
                cells = [tuple(_cell(path.parent, cell) for cell in row) for row in rows]
                return Table(tuple(columns), cells)
    raise InputError(f"can't read {path}: it must have columns, and rows with a cell for each of them")


def _cell(folder: Path, cell: Any) -> Any:
    return _read_picture(folder / Path(cell).name) if isinstance(cell, str) and cell.endswith(".png") else cell


def _read_picture(path: Path) -> "Image":
    from PIL import Image

    content = read_bytes(path)
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.copy()
    except Exception as error:  # broken bytes can raise any exception in a decoder
        raise InputError(f"can't read {path}: {one_line(error)}") from error


def png(picture: "Image") -> bytes:
    """Encode a picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def is_picture(value: Any) -> bool:
    """Whether a value is one of Pillow's images; Pillow is not imported."""
    return type(value).__module__.split(".")[0] == "PIL"
