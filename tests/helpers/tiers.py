"""Tiers of tests: the default one, which takes 4 minutes at most in one process, and the slow one."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """One case of a parametrised test, in the slow tier."""
    return pytest.param(*values, marks=pytest.mark.slow)


def slow_but(fast: str, cases: Iterable[str]) -> list[Any]:
    """Cases by name, in the slow tier but for those named in `fast`."""
    names = list(cases)
    assert set(fast.split()) <= set(names), fast
    return [name if name in fast.split() else slow(name) for name in names]
