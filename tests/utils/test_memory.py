"""Memory that is kept for the next allocation."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.helpers.tiers import slow


def pages_per_block(environment: dict[str, str], keep: bool) -> tuple[bool, float]:
    """Whether freed memory is kept, and the pages that the system clears for each of 20 blocks of 64 MiB."""
    script = f"""
        import resource
        import torch
        from ae.utils.memory import keep_freed_memory
        kept = {keep} and keep_freed_memory()
        for i in range(25):
            if i == 5:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(2**24)
        print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
    """
    kept_environment = {name: value for name, value in os.environ.items() if "MALLOC_" not in name}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, env=kept_environment | environment, capture_output=True, text=True, check=True)
    kept, pages = result.stdout.split()
    return kept == "True", float(pages)


@pytest.mark.slow
@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="of glibc")
def test_kept_memory_is_not_cleared_again() -> None:
    kept, pages = pages_per_block({}, keep=True)
    assert kept
    assert pages < 100
    assert pages_per_block({}, keep=False)[1] > 20 * (pages + 1)


@pytest.mark.parametrize(
    "environment", [slow({"MALLOC_ARENA_MAX": "4"}), slow({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"})]
)
def test_settings_of_the_user_stay(environment: dict[str, str]) -> None:
    assert pages_per_block(environment, keep=True)[0] is False
