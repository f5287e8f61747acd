import signal
import threading
from collections.abc import Iterator

import pytest

from ae.signals import Ending, uninterrupted


class TerminatedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _raises_on_sigterm() -> Iterator[None]:
    def handler(number: int, frame: object) -> None:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)])
def test_a_signal_waits_for_the_end(number: int, error: type[BaseException]) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("all of it")
        done.append("no more")

    with pytest.raises(error):
        work()
    assert done == ["all of it"]
    with pytest.raises(error):
        signal.raise_signal(number)  # as before


def test_an_error_inside_is_not_hidden() -> None:
    def fail() -> None:
        with uninterrupted():
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_training_that_a_notebook_has_interrupted_can_be_begun_again() -> None:
    ending, done = Ending(), []

    def train() -> None:
        with ending.deferred():
            signal.raise_signal(signal.SIGINT)
            assert ending.is_asked
            done.append("to its end")
            ending.take_effect()

    with pytest.raises(KeyboardInterrupt):
        train()
    with ending.deferred():
        assert not ending.is_asked
        ending.take_effect()
        done.append("again")
    assert done == ["to its end", "again"]


def test_other_threads_may_use_it() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]
