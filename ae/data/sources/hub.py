"""Data sets of Hugging Face `datasets`: of the Hub, in a folder, in parquet or Arrow files, and WebDataset shards."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ae.data.columns import Columns
from ae.data.decode import INFERRED, GivenForm
from ae.data.files import note
from ae.data.images import ImageSet
from ae.data.sources.hub_stream import Streaming, read_in_sequence
from ae.data.sources.source import Source, with_test
from ae.data.tables import in_memory, read_tables
from ae.utils.errors import InputError, one_line
from ae.utils.extras import extra

_SHARDS = 64  # of a data set on the disk that is read in sequence
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
_PARTS |= {"test": "test"}
_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")


def read_hub(
    root: Path,
    form: GivenForm = INFERRED,
    workers: int = 2,
    columns: Columns = Columns(),  # noqa: B008  # frozen
    stream: Streaming | None = None,
    hold: bool = False,
) -> Source[ImageSet]:
    """Open a data set whose images are read on demand from memory-mapped tables, or in sequence.

    root     ORG/NAME on the Hub, also ORG/NAME:CONFIG and ORG/NAME@REVISION; a folder of images, of parquet files or of
             WebDataset shards (.tar), or one that `save_to_disk` wrote; or one such file
    form     size, channels and value of white of the images
    workers  processes that read ahead
    columns  columns of images, labels and targets
    stream   read the training images in sequence (`ae.data.sequential`), which needs no space on the disk
    hold     decode all images once, and hold them in memory

    Without test images, a fixed tenth of the training images is held out. Raises InputError that names the columns
    where one is not clear, and where the extra `hub` is missing.
    """
    parts = _open(root, stream is not None)
    features = parts["train"].features
    if features is None:
        raise InputError(f"{root} does not say what its columns hold, and can't be read in sequence")
    found = columns.found(features, str(root))
    if stream is not None:
        return read_in_sequence(parts, found, form, workers, stream)
    sets = read_tables(parts, found, form, workers)
    source = with_test(sets["train"], sets.get("validation"), sets.get("test"))
    if not hold:
        return source
    validation = None if source.validation is None else in_memory(source.validation)
    return Source(in_memory(source.train), lambda: in_memory(source.test()), validation)


def parts_of(splits: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Choose train, validation and test of a data set's splits, and note the others."""
    parts = {_PARTS[split]: data for split, data in splits.items() if split in _PARTS}
    others = [split for split in splits if split not in _PARTS]
    if "train" not in parts:
        raise InputError(f"{place} has no part train, but {', '.join(splits) or 'none'}")
    if others:
        note(f"parts of {place} that are not read: {', '.join(others)}")
    return parts


def _open(root: Path, streaming: bool) -> dict[str, Any]:
    """Open the parts of a data set: train, and validation and test if there are such."""
    with extra("hub", "data set hub"):
        import datasets

    try:
        opened = _opened(datasets, root, streaming)
    except InputError:
        raise
    except Exception as error:  # of files, of Arrow, and of the network
        missing = "" if root.exists() else "no file or folder of this name, and on the Hub: "
        raise InputError(f"can't open {root}: {missing}{one_line(error)}") from error
    is_one = isinstance(opened, datasets.Dataset | datasets.IterableDataset)
    splits = {"train": opened} if is_one else {str(split): data for split, data in opened.items()}
    return parts_of(splits, str(root))


def _opened(datasets: Any, root: Path, streaming: bool) -> Any:
    if root.is_file():
        builder = _BUILDERS.get(root.suffix.lower())
        if builder is None:
            kinds = ", ".join(_BUILDERS)
            raise InputError(f"{root} must be a file {kinds}, a folder of such files, or ORG/NAME on the Hub")
        return datasets.load_dataset(builder, data_files={"train": str(root)}, streaming=streaming)
    if (root / "dataset_dict.json").exists() or (root / "state.json").exists():
        opened = datasets.load_from_disk(str(root))
        if not streaming:
            return opened
        parts = {"train": opened} if isinstance(opened, datasets.Dataset) else opened
        return {name: part.to_iterable_dataset(num_shards=min(len(part), _SHARDS)) for name, part in parts.items()}
    if root.is_dir():
        return datasets.load_dataset(str(root.absolute()), streaming=streaming)
    name = _NAME.fullmatch(root.as_posix())
    if name is None:
        raise InputError(f"no file or folder {root}, and no name on the Hub: Data.root of hub is ORG/NAME, for example")
    return datasets.load_dataset(name["name"], name["config"], revision=name["revision"], streaming=streaming)
