"""Run folders of any content: a result, or one InputError."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ae import InputError
from ae.compare import compare, read_runs, table, verdict, write_csv
from ae.compare.page import render
from tests.helpers.tiers import slow

NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(),
    st.sampled_from([0, 1, -1, 10**30, 10**400, 1e308, -1e308, 5e-324, True]),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.sampled_from(["x" * 280, "=1+1", "</script>", "\u2028"])
)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abcd"), below, max_size=3),
    max_leaves=6,
)
METRICS = ["val/mse", "val/accuracy", "val/accuracy/3", "test/mse", "test/accuracy", "best/val/mse", "code_size", "x"]
MEASURED = st.dictionaries(st.sampled_from(METRICS), NUMBERS | SCALARS, max_size=5)
ROWS = st.lists(st.builds(lambda step, row: {**row, "step": step}, NUMBERS | SCALARS, MEASURED), max_size=4)
CONFIG = st.fixed_dictionaries(
    {
        "experiment": st.sampled_from(["joint", "other"]) | VALUES,
        "id": st.text(max_size=3),
        "config": st.dictionaries(
            st.sampled_from(["model", "recipe", "a.b", "a", "=x"]),
            VALUES | st.fixed_dictionaries({"seed": st.integers(0, 2) | SCALARS}),
            max_size=4,
        ),
    }
)


def as_bytes(content: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes | None]:
    """Draw a file's content: mostly valid, sometimes truncated, of another type, arbitrary bytes, or missing."""
    whole = content.map(lambda value: json.dumps(value).encode() + b"\n")
    cut = st.tuples(whole, st.integers(0, 60)).map(lambda pair: pair[0][: pair[1]])
    other = VALUES.map(lambda value: json.dumps(value).encode() + b"\n")
    return st.integers(0, 9).flatmap(
        lambda kind: {6: cut, 7: other, 8: st.binary(max_size=20), 9: st.none()}.get(kind, whole)
    )


FILES = st.fixed_dictionaries(
    {
        "config.json": as_bytes(CONFIG),
        "history.jsonl": st.one_of(
            ROWS.map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode()), st.binary(max_size=20)
        ),
        "summary.json": as_bytes(MEASURED | st.builds(lambda row, step: {**row, "step": step}, MEASURED, SCALARS)),
        "reconstructions.png": st.sampled_from(
            [None, None, b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" * 9]
        ),
    }
)


@pytest.mark.parametrize("cases", [50, slow(2000)])
def test_compare_accepts_folders_of_any_content(cases: int, unhooked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")  # megabytes, the same in every page

    @settings(max_examples=cases)
    @given(st.lists(FILES, min_size=1, max_size=5), st.none() | VALUES)
    def check(runs: list[dict[str, bytes | None]], study: Any) -> None:
        with tempfile.TemporaryDirectory() as root:
            for number, files in enumerate(runs):
                folder = Path(root, "s", f"r{number}")
                folder.mkdir(parents=True)
                for name, content in files.items():
                    if content is not None:
                        (folder / name).write_bytes(content)
            if study is not None:
                Path(root, "s/sweep.json").write_text(json.dumps(study))
            try:
                comparison = compare(read_runs([root]))
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
                return
            assert str(verdict(comparison))
            assert len(table(comparison).splitlines()) == len(comparison.groups) + 1
            table(comparison, each=True)
            render(comparison)
            write_csv(comparison, Path(root, "all.csv"))

    check()
