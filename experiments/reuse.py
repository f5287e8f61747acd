"""Speed of a trained encoder: loading, PyTorch and onnxruntime.   python -m experiments.reuse RUN

PyTorch and onnxruntime alternate, on the same images and number of threads. Needs the extra `export`.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.export import Dim

from ae import Autoencoder, InputError, load, unchecked_range
from ae.cli import Positional, cli
from ae.utils.extras import extra
from ae.utils.validation import Positive, Settings


@dataclass(frozen=True)
class Config(Settings):
    """Configuration: the run, and the size of the measurement."""

    run: Positional[Path]  # a run's folder, or a file of weights
    rounds: Positive[int] = 20  # each measures both once
    batch_size: Positive[int] = 256  # images per call


def main(config: Config) -> None:
    """Measure and print medians."""
    loading = [timed(lambda: load(config.run)) for _ in range(config.rounds)]
    model = load(config.run)
    if model.image_shape is None:
        raise InputError(f"{config.run} does not state its image shape: it was written in format 1")
    images = torch.rand(config.batch_size, *model.image_shape)
    session, name = open_session(model, images)
    expected = encode(model, images)
    (features,) = session.run(None, {name: images.numpy()})
    difference = (torch.from_numpy(features) - expected).abs().max().item()
    eager, onnx = [], []
    for _ in range(config.rounds):
        eager.append(timed(lambda: encode(model, images)))
        onnx.append(timed(lambda: session.run(None, {name: images.numpy()})))
    ratios = [seconds / onnx_seconds for seconds, onnx_seconds in zip(eager, onnx, strict=True)]
    print(f"{config.batch_size} images per call, {torch.get_num_threads()} threads, medians of {config.rounds} rounds")
    print(f"load         {1000 * median(loading):8.1f} ms")
    print(f"PyTorch      {config.batch_size / median(eager):8,.0f} images/s")
    print(f"onnxruntime  {config.batch_size / median(onnx):8,.0f} images/s, {median(ratios):.2f} times PyTorch's")
    print(f"largest difference of a feature {difference:.1e}")


def encode(model: Autoencoder, images: torch.Tensor) -> torch.Tensor:
    """Compute the encoder's features."""
    with torch.no_grad(), unchecked_range():
        return model.encoder(images)


def open_session(model: Autoencoder, images: torch.Tensor) -> tuple[Any, str]:
    """Export the encoder to onnxruntime, with a dynamic batch size; return the session and its input's name."""
    with extra("export", "the comparison with ONNX"):
        import onnxruntime

    program = torch.export.export(model.encoder, (images[:2],), dynamic_shapes=({0: Dim("batch")},))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        torch.onnx.export(program, f=Path(folder, "encoder.onnx"), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(Path(folder, "encoder.onnx"), options)
    return session, session.get_inputs()[0].name


def timed(work: Callable[[], Any]) -> float:
    """Measure the seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    cli(main)
