"""Images as shards: parquet files, as on the Hub, and WebDataset's tar archives."""

import io
import tarfile
from pathlib import Path

import datasets
from PIL import Image

from ae import Images


def rows(images: Images) -> datasets.Dataset:
    """A data set of Hugging Face with columns image, label, and thickness if there is such a target."""
    pictures = [Image.fromarray(pixels[0].numpy()) for pixels in images.pixels]
    columns = {"image": pictures, "label": images.labels.tolist()}
    columns |= {name: target.values.tolist() for name, target in images.targets.items()}
    data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    return data.cast_column("label", datasets.ClassLabel(names=list(images.classes)))


def write_parquet(folder: Path, images: Images, part: str = "train", shards: int = 3) -> Path:
    """Write `part-0000i-of-0000n.parquet`; each shard holds consecutive images."""
    folder.mkdir(parents=True, exist_ok=True)
    data = rows(images)
    for i in range(shards):
        shard = data.shard(shards, i, contiguous=True)
        shard.to_parquet(folder / f"{part}-{i:05}-of-{shards:05}.parquet")
    return folder


def write_tars(folder: Path, images: Images, part: str = "train", shards: int = 3) -> Path:
    """Write `part-0000i.tar` of WebDataset; each shard holds consecutive images, as PNG, and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(images) // shards)
    for shard in range(shards):
        with tarfile.open(folder / f"{part}-{shard:05}.tar", "w") as archive:
            for i in range(shard * size, min((shard + 1) * size, len(images))):
                content = io.BytesIO()
                Image.fromarray(images.pixels[i, 0].numpy()).save(content, "PNG")
                for suffix, value in (("cls", str(int(images.labels[i])).encode()), ("png", content.getvalue())):
                    entry = tarfile.TarInfo(f"{i:08}.{suffix}")
                    entry.size = len(value)
                    archive.addfile(entry, io.BytesIO(value))
    return folder
