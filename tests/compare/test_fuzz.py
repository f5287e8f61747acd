"""Run folders and sweep files of any content: a result, or one InputError."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ae import InputError
from ae.compare import compare, read_runs, table, verdict, write_csv
from ae.compare.page import render
from ae.sweeps import read_sweep
from tests.helpers.tracked import slow

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]

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
    """A file's content: mostly as it should be, sometimes cut off, of another kind, of any bytes, or missing."""
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
def test_compare_takes_run_folders_of_any_content(cases: int, unhooked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")  # megabytes that are the same in every page

    @settings(max_examples=cases, deadline=None, suppress_health_check=QUIET, database=None, derandomize=True)
    @given(st.lists(FILES, min_size=1, max_size=5), st.none() | VALUES)
    def check(runs: list[dict[str, bytes | None]], study: Any) -> None:
        with tempfile.TemporaryDirectory() as place:
            for number, files in enumerate(runs):
                folder = Path(place, "s", f"r{number}")
                folder.mkdir(parents=True)
                for name, content in files.items():
                    if content is not None:
                        (folder / name).write_bytes(content)
            if study is not None:
                Path(place, "s/sweep.json").write_text(json.dumps(study))
            try:
                comparison = compare(read_runs([place]))
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
                return
            assert str(verdict(comparison))
            assert len(table(comparison).splitlines()) == len(comparison.groups) + 1
            table(comparison, each=True)
            render(comparison)
            write_csv(comparison, Path(place, "all.csv"))

    check()


PARAMETER = st.one_of(
    VALUES,
    st.fixed_dictionaries({"value": VALUES}),
    st.fixed_dictionaries({"values": st.lists(NUMBERS, max_size=4) | VALUES}),
    st.fixed_dictionaries(
        {"min": NUMBERS | SCALARS, "max": NUMBERS | SCALARS},
        optional={
            "q": NUMBERS | SCALARS,
            "distribution": st.sampled_from(["uniform", "int_uniform", "log_uniform_values", "q_uniform", "normal"])
            | VALUES,
        },
    ),
)
NAMES = st.sampled_from(["hill.x", "hill.sizes", "hill.is_steep", "seconds", "hill", "run.name", "run.dir", "zzz"])
PARAMETERS = st.dictionaries(
    NAMES, PARAMETER | st.fixed_dictionaries({"parameters": st.dictionaries(NAMES, PARAMETER)}), max_size=3
)


def mostly(right: Any) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda kind: VALUES if kind == 0 else right)


SWEEP = st.fixed_dictionaries(
    {
        "program": mostly(st.just("tests/helpers/hill.py")),
        "method": mostly(st.sampled_from(["grid", "random", "bayes"])),
        "metric": mostly(st.just({"name": "val/loss", "goal": "minimize"})),
        "parameters": mostly(PARAMETERS),
    },
    optional={
        "name": SCALARS,
        "run_cap": NUMBERS | SCALARS,
        "early_terminate": mostly(
            st.fixed_dictionaries({"type": st.just("hyperband")}, optional={"min_iter": NUMBERS, "eta": NUMBERS})
        ),
        "command": VALUES,
        "odd": VALUES,
    },
)
TEXTS = st.one_of(
    SWEEP.map(lambda content: json.dumps(content).encode()),
    SWEEP.map(lambda content: yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")),
    st.tuples(
        SWEEP.map(lambda content: yaml.safe_dump(content).encode()), st.integers(0, 99), st.binary(max_size=3)
    ).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]),
    st.binary(max_size=60),
    st.text("ab:&*<!-[]{}\"'|>#\n 1.e", max_size=60).map(str.encode),
)


@pytest.mark.parametrize("cases", [50, slow(2000)])
def test_read_sweep_takes_files_of_any_content(cases: int, unhooked: None, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"

    @settings(max_examples=cases, deadline=None, suppress_health_check=QUIET, database=None, derandomize=True)
    @given(TEXTS)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            sweep = read_sweep(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            return
        for parameter in sweep.parameters.values():
            parameter.distribution()

    check()
