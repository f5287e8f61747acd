import errno
import fcntl
import os
from pathlib import Path

import pytest

from ae import InputError, Run, RunConfig
from ae.runs.lock import is_running


def test_lock_rejects_second_open_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run("joint", RunConfig(dir=folder, wandb="disabled")) as run:
        run.save_state({"step": 1})
        assert is_running(folder)
        with pytest.raises(InputError, match=r"the run in .*run is open already"):
            Run("joint", RunConfig(resume=folder, wandb="disabled"))
    assert not is_running(folder)
    assert not is_running(tmp_path / "nowhere")
    Run("joint", RunConfig(resume=folder, wandb="disabled")).finish()


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_lock_warns_on_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.log({"train/loss": 1.0}, 1, 0.1)
        run.save_state({"step": 1})
    assert "is on a file system without locks: see that no other process has the run open\n" in capsys.readouterr().err
    assert not is_running(run.folder)
    with Run("joint", RunConfig(resume=run.folder, wandb="disabled")) as resumed:
        resumed.load_state()
