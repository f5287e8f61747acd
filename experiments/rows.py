"""Memory and time of data sets of many rows: open and split, first batch, further batches.   python -m experiments.rows

Images are random, of 8x8 pixels: arrays in .npy files, or one PNG in every row of a parquet file. Memory is anonymous,
without the pages of mapped files; Linux only.
"""

import io
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from ae import Data
from ae.cli import cli
from ae.utils.validation import Positive, Settings

_SIZE, _WRITTEN_TOGETHER = 8, 500_000


@dataclass(frozen=True)
class Config(Settings):
    """Rows, and how they are stored and read."""

    rows: Positive[int] = 10_000_000
    kind: Literal["arrays", "parquet"] = "arrays"  # parquet needs the extra `hub`
    stream: bool = True  # arrays: on demand; parquet: in sequence, without it memory-mapped
    batches: Positive[int] = 200  # further batches, of 64


def main(config: Config) -> None:
    """Write the rows to a temporary folder, open them, and print times and memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (_write_arrays if config.kind == "arrays" else _write_parquet)(root, config.rows)
        before, started = _memory(), time.perf_counter()
        options = Data("arrays" if config.kind == "arrays" else "hub", root, stream=config.stream, workers=0)
        data = replace(options, validation=5000).load()
        _say("opened and split", started, before, config.rows)
        started, batches = time.perf_counter(), data.batches(64, seed=0).starting_at(0)
        next(batches)
        _say("first batch", started, before, config.rows)
        started = time.perf_counter()
        count = sum(len(batch) for batch in islice(batches, config.batches))
        print(f"further batches   {count / (time.perf_counter() - started):8,.0f} images/s")


def _say(what: str, started: float, before: int, rows: int) -> None:
    seconds, memory = time.perf_counter() - started, _memory() - before
    print(f"{what:17} {seconds:8.1f} s, memory + {memory / 2**20:,.0f} MB, {memory / rows:.0f} bytes a row")


def _memory() -> int:
    """Anonymous memory of this process, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def _write_arrays(root: Path, rows: int) -> None:
    generator = np.random.default_rng(0)
    images = np.lib.format.open_memmap(root / "images.npy", "w+", np.uint8, (rows, _SIZE, _SIZE))
    for start in range(0, rows, _WRITTEN_TOGETHER):
        part = images[start : start + _WRITTEN_TOGETHER]
        part[:] = generator.integers(0, 256, part.shape, dtype=np.uint8)
    images.flush()
    np.save(root / "labels.npy", generator.integers(0, 10, rows))


def _write_parquet(root: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    generator, file = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (_SIZE, _SIZE), dtype=np.uint8)).save(file, "PNG")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with pq.ParquetWriter(root / "train.parquet", pa.schema([("image", image), ("label", pa.int64())])) as writer:
        for start in range(0, rows, _WRITTEN_TOGETHER):
            count = min(_WRITTEN_TOGETHER, rows - start)
            cells = [pa.array([file.getvalue()] * count, pa.binary()), pa.nulls(count, pa.string())]
            labels = pa.array(generator.integers(0, 10, count))
            writer.write_table(pa.table([pa.StructArray.from_arrays(cells, ["bytes", "path"]), labels], writer.schema))


if __name__ == "__main__":
    cli(main)
