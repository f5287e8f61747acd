import pytest

from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def _python_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of trials import `ae` and `tests`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
