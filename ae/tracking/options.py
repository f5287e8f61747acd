"""Validate a run's W&B options, environment variables and settings files by W&B's rules, before any file is written."""

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from ae.utils.errors import InputError, one_line

MAX_LENGTH, _MAX_TAG_LENGTH, _MAX_SHOWN = 128, 64, 64  # characters
_FORBIDDEN = {"project": "/\\#?%:", "entity": "/\\#?%:", "run_id": ":;,#?/'\\"}
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "name": "WANDB_NAME",
    "notes": "WANDB_NOTES",
    "run_id": "WANDB_RUN_ID",
}
_FALSE, _TRUE = ("false", "0", "no", "n", "f", "off"), ("true", "1", "yes", "y", "t", "on")
_CHOICES = {
    "WANDB_MODE": ("online", "offline", "disabled", "dryrun", "run", "shared"),
    "WANDB_RESUME": ("allow", "must", "never", "auto"),
}
_SWITCHES = ("WANDB_SAVE_CODE", "WANDB_DISABLE_CODE", "WANDB_DISABLED", "WANDB_SILENT", "WANDB_QUIET")


def is_true(variable: str, default: bool = False) -> bool:
    """Whether an environment variable is true, by W&B's words for it."""
    return os.environ.get(variable, str(default)).strip().lower() in _TRUE


def check_options(options: Mapping[str, str | None], tags: Sequence[str], owner: str) -> None:
    """Raise InputError that names `owner`.OPTION for an option that W&B would refuse."""
    for option, text in options.items():
        if text is not None:
            _check_text(option, text, f"{owner}.{option}")
    _check_tags(tags, f"{owner}.tags")


def check_environment() -> None:
    """Raise InputError that names the `WANDB_...` variable, or the settings file, whose value W&B can't use.

    Empty variables are deleted from the environment, which W&B's client reads itself.
    """
    for variable in [name for name, text in os.environ.items() if name.startswith("WANDB_") and not text.strip()]:
        del os.environ[variable]
    for option, variable in VARIABLES.items():
        if variable in os.environ:
            _check_text(option, os.environ[variable], variable)
    for variable, choices in _CHOICES.items():
        if os.environ.get(variable, choices[0]) not in choices:
            raise InputError(f"{variable} must be {_either(choices)}, got {os.environ[variable]!r}")
    for variable in _SWITCHES:
        if os.environ.get(variable, "true").lower() not in _TRUE + _FALSE:
            raise InputError(f"{variable} must be true or false, got {os.environ[variable]!r}")
    if "WANDB_TAGS" in os.environ:
        tags = [tag.strip() for tag in os.environ["WANDB_TAGS"].split(",") if tag.strip()]
        _check_tags(tags, "WANDB_TAGS")
        os.environ["WANDB_TAGS"] = ",".join(tags)
        if not tags:
            del os.environ["WANDB_TAGS"]
    if "WANDB_DIR" in os.environ:
        _check_folder(Path(os.environ["WANDB_DIR"]).expanduser(), "WANDB_DIR")
    if not os.environ.get("WANDB_SERVICE", "3-1-unix-x").startswith("3-"):
        raise InputError("WANDB_SERVICE must be the value that W&B has set for a running process: unset it")


def check_settings() -> None:
    """Raise InputError that names the variable, or the settings file, of any further setting that W&B refuses."""
    import wandb

    for variable, text in os.environ.items():
        if variable.startswith("WANDB_"):
            try:
                wandb.Settings().update_from_env_vars({variable: text})
            except Exception as error:  # pydantic's, or W&B's own
                raise InputError(f"{variable}={_short(text)} is refused by W&B: {_reason(error)}") from error
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path("~", ".config", "wandb")).expanduser()
    settings = wandb.Settings(settings_system=str(folder / "settings"))
    files = f"{settings.settings_system} or {settings.settings_workspace}"
    warnings = io.StringIO()
    try:
        with redirect_stderr(warnings):
            file_settings = settings.read_system_settings().all()
    except Exception as error:  # a binary file, for example
        raise InputError(f"can't read the settings of W&B in {files}: {one_line(error)}") from error
    if warnings.getvalue():
        raise InputError(f"can't read the settings of W&B: {one_line(warnings.getvalue())}")
    for name, text in file_settings.items():
        value: Any = text.split(",") if name == "ignore_globs" else text
        try:
            if name not in ("anonymous", "settings_system", "root_dir"):  # W&B ignores these with a message
                wandb.Settings(**{name: value})
        except Exception as error:
            raise InputError(f"{name}={_short(text)} in {files} is refused by W&B: {_reason(error)}") from error


def use_writable_folders() -> None:
    """Move W&B's cache and staged data to temporary folders where their own folders can't be written."""
    from wandb import env

    for variable, folder in (("WANDB_CACHE_DIR", env.get_cache_dir), ("WANDB_DATA_DIR", env.get_data_dir)):
        try:
            _check_folder(Path(folder()), variable)
        except InputError:
            os.environ[variable] = tempfile.mkdtemp(prefix="wandb-")


def _check_text(option: str, text: str, name: str) -> None:
    if option == "notes":
        if "\0" in text or not _is_unicode(text):
            raise InputError(f"{name} must be text, got {_short(text)}")
        return
    forbidden = _FORBIDDEN.get(option, "")
    is_line = 0 < len(text) <= MAX_LENGTH and text.isprintable() and text == text.strip()
    if not is_line or set(text) & set(forbidden):
        exclusion = f", none of {' '.join(forbidden)}" if forbidden else ""
        rule = f"1 to {MAX_LENGTH} printable characters, without a space at an end{exclusion}"
        raise InputError(f"{name} must be {rule}, got {_short(text)}")


def _check_tags(tags: Sequence[str], name: str) -> None:
    for tag in tags:
        if not (0 < len(tag) <= _MAX_TAG_LENGTH and tag.isprintable() and tag.strip()):
            raise InputError(f"{name} must each be 1 to {_MAX_TAG_LENGTH} printable characters, got {_short(tag)}")
        if list(tags).count(tag) > 1:
            raise InputError(f"{name} must differ from each other, got {_short(tag)} twice")


def _check_folder(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{name} must be a folder that can be written to, got {str(folder)!r}: {error.strerror}"
        ) from error


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(text: str) -> str:
    return repr(text) if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN // 2]!r}... ({len(text)} characters)"


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _reason(error: Exception) -> str:
    """The message of pydantic's first error, or the whole message of another error."""
    errors = getattr(error, "errors", None)
    return errors()[0]["msg"] if callable(errors) else one_line(error)
