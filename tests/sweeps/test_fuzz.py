"""Sweep files of any content: a sweep, or one InputError."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ae import InputError
from ae.sweeps import read_sweep
from tests.compare.test_fuzz import NUMBERS, SCALARS, VALUES
from tests.helpers.tiers import slow

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


def mostly(valid: Any) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda kind: VALUES if kind == 0 else valid)


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
def test_read_sweep_accepts_files_of_any_content(cases: int, unhooked: None, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"

    @settings(max_examples=cases)
    @given(TEXTS)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            sweep = read_sweep(path)
        except InputError as error:
            assert str(error).removeprefix("can't read ").startswith(f"{path}: ")  # noqa: PT017
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            return
        for parameter in sweep.parameters.values():
            parameter.distribution()

    check()
