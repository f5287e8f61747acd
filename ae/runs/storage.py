"""Writing to a run's folder, by the one process that holds its lock."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ae.runs.checkpoint import discard_broken, save_state
from ae.runs.folder import CONFIG, HISTORY, STATE, SUMMARY, ConfigFile, history_lines
from ae.runs.lock import LOCK, Lock
from ae.tracking.media import Media, png
from ae.tracking.row_log import Row
from ae.utils.errors import InputError, StorageError
from ae.utils.files import exists, json_text, remove_temporaries, sync, write_whole
from ae.utils.signals import uninterrupted
from ae.weights import save_weights

if TYPE_CHECKING:
    from PIL.Image import Image


class Storage:
    """A run's folder, locked and open for writing.

    Raises InputError if another process has the run open. Every writing method raises StorageError if the folder can't
    be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock(folder)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def remove_temporaries(self) -> None:
        """Remove temporary files of killed processes, if the lock excludes living processes."""
        if self._lock.is_exclusive:
            for folder in (self.folder, self.folder / "pictures", self.folder / "tables"):
                remove_temporaries(folder)

    def write_config(self, config_file: ConfigFile) -> None:
        """Write `config.json`."""
        self._write_json(CONFIG, config_file.to_dict())

    def append_row(self, row: Row, pictures: Mapping[str, "Image"]) -> None:
        """Append a row to the history, and write the pictures of its step."""
        with self._writing():
            for name, picture in pictures.items():
                path = self.folder / "pictures" / f"{name}-{int(row['step']):08d}.png"
                path.parent.mkdir(exist_ok=True)
                write_whole(path, png(picture))
            with open(self.folder / HISTORY, "a", encoding="utf-8") as history:
                history.write(json_text(row) + "\n")

    def rewind(self, step: int) -> list[Row]:
        """Remove rows after `step` from the history, and a state that is broken; return the remaining rows."""
        discard_broken(self.folder / STATE)
        path = self.folder / HISTORY
        lines = [(line, row) for line, row in history_lines(self.folder) if row["step"] <= step]
        if exists(path):
            with self._writing():
                write_whole(path, "".join(f"{line}\n" for line, _ in lines).encode())
        return [row for _, row in lines]

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write the training state, after the rows that lead to it."""
        with uninterrupted(), self._writing():
            sync(self.folder / HISTORY)  # after a power cut, a resumed run does not compute these rows again
            save_state(self.folder / STATE, state)

    def save_weights(
        self,
        name: str,
        model: nn.Module,
        image: Sequence[int] | None,
        classes: Sequence[str],
        metrics: Mapping[str, float] | None,
    ) -> None:
        """Write weights and their metadata to `NAME.safetensors`."""
        with self._writing():
            save_weights(self.folder / f"{name}.safetensors", model, image, classes, metrics)

    def write_summary(self, summary: dict[str, Any], media: Media) -> None:
        """Write `summary.json`, and the pictures and tables of the test."""
        self._write_json(SUMMARY, summary)
        with self._writing():
            media.save(self.folder)

    def undo(self) -> None:
        """Remove all that a new run has written, and the folder if nothing else is in it."""
        for name in (CONFIG, STATE):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "wandb", ignore_errors=True)
        self._lock.release()
        (self.folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # files of the user are in it
            self.folder.rmdir()

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        with self._writing():
            write_whole(self.folder / name, (json_text(content, indent=2) + "\n").encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise StorageError, one line with the command to resume, for an OSError of the block."""
        try:
            yield
        except OSError as error:
            hint = f"; what it holds is whole: continue with --run.resume {self.folder}" if self.folder.exists() else ""
            raise StorageError(f"can't write in {self.folder}: {error.strerror or error}{hint}") from error


def create_folder(folder: Path) -> None:
    """Create the folder of a new run; raises InputError if it holds a run, or can't be written to."""
    if exists(folder / CONFIG):
        raise InputError(f"{folder} already holds a run: continue it with --run.resume {folder}, or choose another")
    if exists(folder) and not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"can't write in {folder}: {error.strerror}") from error


def check_file_name(name: Any, argument: str) -> None:
    """Raise InputError, which begins with `argument`, if `name` can't be part of a file's name."""
    if not isinstance(name, str) or not name or set(name) & set("/\\\0\n"):
        raise InputError(f"{argument} must be text that a file's name can hold, got {name!r}")
