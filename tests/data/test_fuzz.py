"""Random bytes and folders are read, or refused in one line."""

import gzip
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ae import Images, InputError
from ae.data import sources
from ae.data.idx import read_idx
from tests.helpers.held import held
from tests.helpers.image_files import save_image


def check_one_line(error: InputError) -> None:
    assert "\n" not in str(error)


def fuzz_idx(raw: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(raw)
        try:
            assert read_idx(path).dtype == torch.uint8
        except InputError as error:
            check_one_line(error)


HEADS = st.sampled_from([b"", b"\0\0\x08\x01", b"\0\0\x08\x03\0\0\0\x01", b"\x1f\x8b\x08", b"\0\0\x0d\x01"])


RAW = st.builds(
    lambda head, rest, zip: gzip.compress(head + rest) if zip else head + rest, HEADS, st.binary(), st.booleans()
)


NAMES = st.sampled_from(["train", "test", "val", "a", "b", ".x", "@eaDir", "0.png", "1.jpg", "n.txt", "é"])


TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=4).map(tuple), st.none() | st.binary(max_size=40), max_size=8
)


def fuzz_tree(tree: dict[tuple[str, ...], bytes | None]) -> None:
    root = Path("tree")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for parts, content in tree.items():
        try:
            root.joinpath(*parts[:-1]).mkdir(parents=True, exist_ok=True)
            if content is None:
                save_image(root.joinpath(*parts[:-1], f"{parts[-1]}.png"))
            else:
                root.joinpath(*parts).write_bytes(content)
        except OSError:
            continue
    try:
        assert isinstance(held(sources.read_folder(root).train), Images)
    except InputError as error:
        check_one_line(error)


QUICK = settings(max_examples=25)


LONG = settings(max_examples=2000)


test_read_idx_gives_an_array_or_one_error = QUICK(given(RAW)(fuzz_idx))


test_read_folder_gives_images_or_one_error = QUICK(given(TREES)(fuzz_tree))


test_read_idx_gives_an_array_or_one_error_at_length = pytest.mark.slow(LONG(given(RAW)(fuzz_idx)))


test_read_folder_gives_images_or_one_error_at_length = pytest.mark.slow(LONG(given(TREES)(fuzz_tree)))
