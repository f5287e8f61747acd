"""Packages that are not installed: one line that names the extra."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ae import Autoencoder, ConvEncoder, Data, InputError, load
from ae.evaluation.probes import Codes, clusters, linear_probe, nearest_neighbours, neighbour_map
from ae.evaluation.sampling import Mixture
from ae.utils.extras import extra
from experiments import reuse

CODES = Codes(torch.randn(20, 3), torch.arange(20) % 2)


def open_hdf5() -> Any:
    Path("images.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return Data("arrays", Path("images.h5")).load()


@pytest.mark.parametrize(
    ("package", "call", "message"),
    [
        ("sklearn", lambda: linear_probe(CODES, CODES, CODES), "a linear probe needs the extra `eval`"),
        ("sklearn", lambda: nearest_neighbours(CODES, CODES), "nearest neighbours needs the extra `eval`"),
        ("sklearn", lambda: clusters(CODES, 2, 0), "k-means needs the extra `eval`"),
        ("sklearn", lambda: neighbour_map(CODES), "a map by t-SNE needs the extra `eval`"),
        ("sklearn", lambda: Mixture(CODES.values, 2), "a mixture of Gaussians needs the extra `eval`"),
        ("h5py", open_hdf5, r"images\.h5 needs the extra `hdf5`"),
        ("datasets", lambda: Data("hub", Path("user/name")).load(), "data set hub needs the extra `hub`"),
        ("huggingface_hub", lambda: load("hf:user/name"), "hf:user/name needs the extra `hub`"),
        (
            "onnxruntime",
            lambda: reuse.open_session(Autoencoder(ConvEncoder()), torch.rand(2, 1, 28, 28)),
            "the comparison with ONNX needs the extra `export`",
        ),
    ],
)
def test_missing_package_is_one_line_that_names_the_extra(
    package: str, call: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{message}: pip install 'ae\[\w+\]'$"):
        call()


def test_package_that_can_not_be_imported_is_one_line_with_the_reason() -> None:
    message = "a table needs the extra `hub`, which can't be imported: pyarrow requires NumPy"
    with pytest.raises(InputError, match=message), extra("hub", "a table"):
        raise ImportError("pyarrow requires NumPy 2.0 or newer, found 1.26.0\nsee the page")
