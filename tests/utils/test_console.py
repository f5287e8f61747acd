"""Output never raises."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ae.training.progress import Progress
from ae.utils.console import say, steady
from tests.helpers import ROOT


class Broken(io.TextIOWrapper):
    """Pipe whose reader has ended."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_say_ignores_a_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "stderr", Broken())
    say("a line")
    say("another", error=True)
    print("later output of a library")


def test_say_escapes_unencodable_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    say("run  caf\u00e9/\udcc3")
    assert written.getvalue() == b"run  caf\\xe9/\\udcc3\n"
    steady()
    print("caf\u00e9", flush=True)
    assert written.getvalue().endswith(b"caf\\xe9\n")


def _run(code: str, redirect: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "ae/utils")}  # the module alone, without torch
    line = f'{sys.executable} -c "{code}" {redirect}'
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], env=environment, check=False).returncode


@pytest.mark.parametrize("redirect", [">/dev/full", "| true", ">&- 2>&-", ">/dev/full 2>&1", "</dev/null >&-"])
def test_steady_and_say_exit_with_0_where_streams_fail(redirect: str, tmp_path: Path) -> None:
    code = "import console, sys; console.steady(); [print('line' * 99) for _ in range(999)]; sys.stderr.isatty()"
    assert _run(code, redirect) == 0
    assert _run("import console; [console.say('line' * 99) for _ in range(999)]", redirect) == 0


def test_progress_ignores_a_closed_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with Progress(2) as progress:
        progress.step()
        progress.show("train", {"loss": 1.0}, 0.5)
