import os
from pathlib import Path
from typing import Any

import pytest

from ae import InputError
from ae.data import sources
from tests.helpers.image_files import save_image


def test_scan_ignores_system_files_and_lists_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_image(tmp_path / "train" / "a" / "0.png")
    save_image(tmp_path / "train" / "b" / "deep" / "1.gif")
    save_image(tmp_path / "val" / "a" / "2.png")
    save_image(tmp_path / "test" / "c" / "3.tga")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        save_image(tmp_path / "train" / name / "0.png")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "a" / "notes.txt").write_text("text")
    (tmp_path / "train" / "a" / "Thumbs.db").write_text("text")
    source = sources.read_folder(tmp_path)
    assert source.train.classes == ("a", "b", "c")
    assert source.train.labels.tolist() == [0, 1]
    assert source.validation is not None
    assert (len(source.validation), source.test().labels.tolist()) == (1, [2])
    notes = capsys.readouterr().err
    for part in ("1 nested folder", "b/deep", "1 file in", "a/notes.txt", "1 folder without images", "empty"):
        assert part in notes
    assert "Thumbs" not in notes


def test_scan_names_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    real = os.scandir

    def scandir(path: Path) -> Any:  # the superuser can read every folder
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"can't read .*/b: Permission denied"):
        sources.read_folder(tmp_path)
