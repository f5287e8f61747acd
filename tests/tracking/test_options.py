"""Options, environment variables and settings files that W&B refuses raise InputError before any file is written."""

import os
from pathlib import Path
from typing import Any

import pytest
import wandb

from ae import InputError, Run, RunConfig
from ae.tracking.options import check_environment, check_settings


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("project", "a/b"),
        ("project", "p" * 129),
        ("project", ""),
        ("project", "100%"),
        ("entity", "a/b"),
        ("entity", " me"),
        ("group", "g" * 129),
        ("group", ""),
        ("job_type", "j" * 129),
        ("name", "n" * 129),
        ("name", "two\nlines"),
        ("name", "\udcff"),
        ("notes", "\0"),
        ("tags", ("",)),
        ("tags", (" ",)),
        ("tags", ("t" * 65,)),
        ("tags", ("two\nlines",)),
        ("tags", ("a", "b", "a")),
    ],
)
def test_check_options_rejects_invalid_option_by_name(option: str, text: Any) -> None:
    with pytest.raises(InputError, match=rf"^RunConfig\.{option} must .*, got ") as raised:
        RunConfig(**{option: text})
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 200


def test_check_options_accepts_valid_options() -> None:
    longest = "x" * 128
    options: dict[str, str] = dict.fromkeys(("project", "entity", "group", "job_type", "name"), longest)
    run_config = RunConfig(**options, tags=("é" * 64, "b c"), notes="two\nlines" * 100)  # type: ignore[arg-type]
    assert run_config.name == longest
    wandb.Settings(project=run_config.project, run_tags=run_config.tags)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("WANDB_MODE", "foo"),
        ("WANDB_MODE", "Online"),
        ("WANDB_PROJECT", "a/b"),
        ("WANDB_ENTITY", "a/b"),
        ("WANDB_RUN_GROUP", "g" * 129),
        ("WANDB_JOB_TYPE", "j" * 129),
        ("WANDB_NAME", "n" * 129),
        ("WANDB_TAGS", "a,b,a"),
        ("WANDB_TAGS", "t" * 65),
        ("WANDB_RUN_ID", "a/b"),
        ("WANDB_RUN_ID", " a"),
        ("WANDB_RESUME", "perhaps"),
        ("WANDB_SILENT", "foo"),
        ("WANDB_SAVE_CODE", "foo"),
        ("WANDB_DISABLED", "foo"),
        ("WANDB_SERVICE", "foo"),
        ("WANDB_BASE_URL", "nonsense"),
        ("WANDB_BASE_URL", "https://wandb.ai"),
        ("WANDB_INIT_TIMEOUT", "soon"),
        ("WANDB_CONSOLE", "foo"),
        ("WANDB_HTTP_PROXY", "nonsense"),
    ],
)
def test_check_environment_rejects_invalid_variable_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(InputError, match=rf"^{variable}\b.* (must|is refused by W&B: )") as raised:
        Run("joint", RunConfig(dir=tmp_path / "run"))
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["a file", "a file/below", "/proc/nothing"])
def test_check_environment_rejects_unwritable_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / place))
    with pytest.raises(InputError, match="WANDB_DIR must be a folder that can be written to, got "):
        Run("joint", RunConfig(dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_check_environment_deletes_empty_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "MODE PROJECT ENTITY RUN_GROUP JOB_TYPE NAME NOTES TAGS RUN_ID DIR RESUME SILENT CACHE_DIR SERVICE BASE_URL"
    for name in names.split():
        monkeypatch.setenv(f"WANDB_{name}", " " if name == "NAME" else "")
    check_environment()
    check_settings()
    assert not [name for name in names.split() if f"WANDB_{name}" in os.environ]


def test_check_environment_drops_empty_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_TAGS", "a,, b,")
    check_environment()
    assert os.environ["WANDB_TAGS"] == "a,b"
    monkeypatch.setenv("WANDB_TAGS", ",")
    check_environment()
    assert "WANDB_TAGS" not in os.environ


def test_check_environment_is_skipped_where_tracking_is_disabled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "foo")
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
    assert len(run.history()) == 1


def test_effective_is_disabled_by_wandb_disabled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_DISABLED", "true")
    with Run("joint", RunConfig(dir=tmp_path / "run")) as run:
        run.log({"train/loss": 0.5}, 1, 0.1)
    assert not (tmp_path / "run/wandb").exists()


@pytest.mark.parametrize("content", [b"[default]\nmode = foo\n", b"[default]\nunknown = 1\n", b"\xff\0", b"junk\n"])
@pytest.mark.parametrize("place", [".config/wandb/settings", "wandb/settings"])
def test_check_settings_rejects_invalid_settings_file(tmp_path: Path, place: str, content: bytes) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(content)
    with pytest.raises(InputError, match="wandb/settings") as raised:
        Run("joint", RunConfig(dir=tmp_path / "run"))
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()
