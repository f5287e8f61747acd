"""Imports while the process waits, and the interpreter's end."""

import gc
import subprocess
import sys
import textwrap
import time

import pytest

from ae.utils.imports import importing


def test_importing_imports_while_the_body_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with importing("colorsys"):
        assert not gc.isenabled()
        deadline = time.monotonic() + 10
        while "colorsys" not in sys.modules and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "colorsys" in sys.modules
    assert gc.isenabled()


def test_importing_leaves_errors_to_the_code_that_needs_the_module() -> None:
    with importing("no_such_module"):
        pass
    gc.disable()
    try:
        with pytest.raises(KeyError), importing("colorsys"):
            raise KeyError
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.slow
def test_run_imports_what_the_first_optimiser_needs_while_wandb_opens() -> None:
    """Without W&B nothing is waited for, and nothing is imported early."""
    script = """
        import sys
        from ae import Run, RunConfig
        for mode in ("disabled", "offline"):
            with Run("test", RunConfig(wandb=mode)):
                print("torch._dynamo" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line for line in result.stdout.splitlines() if line in ("True", "False")] == ["False", "True"]


@pytest.mark.slow
def test_cli_ends_without_examining_every_object() -> None:
    """The interpreter's last collections find no object; what was registered before `cli` still runs."""
    script = """
        import atexit, gc, sys
        from dataclasses import dataclass
        from ae.cli import cli
        from ae.utils.validation import Settings

        @dataclass(frozen=True)
        class Config(Settings):
            \"\"\"Nothing.\"\"\"

        def main(config: Config) -> None:
            \"\"\"Nothing.\"\"\"

        atexit.register(lambda: print(gc.get_freeze_count() > 10_000, gc.get_count()))
        sys.argv = ["program"]
        cli(main)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("True"), result.stderr
