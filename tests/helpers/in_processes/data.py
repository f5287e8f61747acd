"""Data in several processes: every image once, and encoded shards that are those of one process."""

import json
import shutil
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file

from ae import Autoencoder, ConvEncoder, Data
from ae.evaluation.extract import encode
from ae.utils.distributed import all_gather, from_main, is_main
from tests.helpers.held import held
from tests.helpers.shards import write_parquet, write_tars


def check_encode_writes_the_shards_of_one_process() -> None:
    images = held(Data("mnist", limit=70).load().train)
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(1, (2, 4))).eval()
    for count in (70, 1):  # of one image, a process has none
        folder = from_main(lambda: Path(tempfile.mkdtemp()))
        chosen = images.select(slice(count))
        encode(model, chosen, folder, parts=("codes", "labels"), batch_size=16)
        all_gather(None)
        if is_main():
            index = json.loads((folder / "index.json").read_text())
            assert index["images"] == count
            assert sum(shard["images"] for shard in index["shards"]) == count
            files = [folder / name for shard in index["shards"] for name in shard["files"]]
            tensors = [load_file(file) for file in files]
            expected = model.encode(chosen.batch(slice(None)).images).mean
            torch.testing.assert_close(torch.cat([each["codes"] for each in tensors]), expected)
            assert torch.equal(torch.cat([each["labels"] for each in tensors]), chosen.labels)
            shutil.rmtree(folder)
        all_gather(None)


def check_processes_share_every_image_of_shards() -> None:
    images = held(Data("mnist", limit=100).load().train)
    images.pixels[:, 0, 0, 0] = torch.arange(100)
    for write, stream in ((write_parquet, True), (write_parquet, False), (write_tars, True)):
        folder = from_main(lambda write=write: write(Path(tempfile.mkdtemp()), images))  # type: ignore[misc]
        data = Data("hub", folder, stream=stream, workers=0, buffer=16 if stream else 4096, validation=10).load()
        batches = data.batches(8, seed=0)
        shown = [batch.images[:, 0, 0, 0] for batch in islice(batches.starting_at(0), len(batches))]
        numbers = torch.cat([torch.cat(parts) for parts in zip(*all_gather(shown), strict=True)])
        assert len(numbers) == len(data.train) == 80
        assert len((numbers * 255).round().unique()) == 80
        all_gather(None)
        if is_main():
            shutil.rmtree(folder)


CHECKS: list[Callable[[], None]] = [
    check_encode_writes_the_shards_of_one_process,
    check_processes_share_every_image_of_shards,
]
