import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ae.utils.signals import Ending, uninterrupted
from tests.helpers import ROOT


class TerminatedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _raises_on_signals() -> Iterator[None]:
    """Raise on SIGTERM, and restore Python's SIGINT handler, which a background shell may ignore."""

    def handler(number: int, frame: object) -> None:
        raise TerminatedError

    with disposition(signal.SIGTERM, handler), disposition(signal.SIGINT, signal.default_int_handler):
        yield


@contextmanager
def disposition(number: int, handler: Any) -> Iterator[None]:
    """Set the handler of a signal inside the block."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)])
def test_uninterrupted_delays_signals_to_its_end(number: int, error: type[BaseException]) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("inside")
        done.append("after")

    with pytest.raises(error):
        work()
    assert done == ["inside"]
    with pytest.raises(error):
        signal.raise_signal(number)  # the previous handler


def test_uninterrupted_propagates_errors() -> None:
    def fail() -> None:
        with uninterrupted():
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ending_is_reusable_after_an_interruption() -> None:
    ending, done = Ending(), []

    def train() -> None:
        with ending.deferred():
            signal.raise_signal(signal.SIGINT)
            assert ending.is_asked
            done.append("first")
            ending.take_effect()

    with pytest.raises(KeyboardInterrupt):
        train()
    with ending.deferred():
        assert not ending.is_asked
        ending.take_effect()
        done.append("second")
    assert done == ["first", "second"]


def test_uninterrupted_runs_in_other_threads() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_ending_exits_with_the_code_of_the_signal(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    ending = Ending()

    def train() -> None:
        with ending.deferred():
            signal.raise_signal(number)
            assert ending.is_asked
            ending.take_effect()

    with disposition(number, signal.SIG_DFL):
        with pytest.raises(SystemExit) as ended:
            train()
        assert ended.value.code == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    assert capsys.readouterr().err.startswith("error: terminated")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_ending_keeps_ignored_signals_ignored(number: int) -> None:
    with disposition(number, signal.SIG_IGN):
        ending = Ending()
        with ending.deferred(), uninterrupted():
            signal.raise_signal(number)
            assert signal.getsignal(number) == signal.SIG_IGN
        assert not ending.is_asked


def test_ending_keeps_handlers_of_c_libraries() -> None:
    with disposition(signal.SIGUSR1, signal.SIG_DFL), open(os.devnull, "w") as nowhere:
        faulthandler.register(signal.SIGUSR1, nowhere)
        try:
            ending = Ending()
            with ending.deferred(), uninterrupted():
                signal.raise_signal(signal.SIGUSR1)
            assert not ending.is_asked
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def test_ending_ignores_signals_in_forked_processes() -> None:
    """The end of a data worker by a scheduler's signal would fail training before its state is saved."""
    with disposition(signal.SIGUSR1, signal.SIG_DFL), disposition(signal.SIGTERM, signal.SIG_DFL), Ending():
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGTERM)
            os._exit(7)
        _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_signals_are_handled_before_torch_is_imported() -> None:
    code = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("ae.utils.signals" in sys.modules)
            raise SystemExit
sys.meta_path.insert(0, Finder())
import experiments
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "True\n"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.0])  # after the first library is loaded
def test_end_imports_at_once_reports_one_line(seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.joint", "--recipe.epochs", "100", "--run.wandb", "disabled"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in err
