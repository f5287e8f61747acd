"""A run: one folder that holds all of it, and one run in W&B."""

import contextlib
import json
import secrets
import shutil
import time
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from ae.checkpoint import load_state, save_state, save_weights, write_whole
from ae.errors import InputError
from ae.tracking import Mode, Tracker

if TYPE_CHECKING:
    from PIL.Image import Image

_CONFIG, _HISTORY, _STATE = "config.json", "history.jsonl", "state.pt"


@dataclass(frozen=True)
class RunConfig:
    """Where a run is kept, and how it is tracked."""

    dir: Path | None = None  # the run's folder (default: runs/EXPERIMENT-TIME-ID)
    resume: Path | None = None  # continue the run in this folder, with its configuration; other flags override
    wandb: Mode = "auto"  # auto: online when logged in, else offline
    project: str = "ae"  # project in W&B


class Run:
    """A folder with configuration, history, weights, training state, summary and pictures, and the same in W&B.

    As a context manager it finishes the run in W&B too, as failed where an exception leaves it; bad input before
    anything was logged leaves the folder as it was. `config` is a dataclass or dict, kept in `config.json`. Raises
    InputError, before anything is written, where the folder can't be used.
    """

    def __init__(self, experiment: str, where: RunConfig | None = None, config: Any = None) -> None:
        where = where or RunConfig()
        self._before: bytes | None = None  # the configuration that a resumed run had
        self._has_logged = False
        if where.resume is not None:
            self.folder, self.id = where.resume, read_config(where.resume)["id"]
            self._before = (self.folder / _CONFIG).read_bytes()
        else:
            self.id = secrets.token_hex(4)
            self.folder = where.dir or Path("runs") / f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{self.id}"
            _make_folder(self.folder)
        values = to_json(config)
        content = {"experiment": experiment, "id": self.id, "config": values}
        write_whole(self.folder / _CONFIG, _json_bytes(content))
        self._tracker = None
        if where.wandb != "disabled":
            self._tracker = Tracker(where.wandb, where.project, experiment, self.id, self.folder, values)

    def log(self, split: Literal["train", "val"], metrics: dict[str, float], step: int, epoch: float) -> None:
        """Add a row of metrics, as `split/...`, to the history and to W&B."""
        row = {"step": step, "epoch": epoch, **{f"{split}/{name}": value for name, value in metrics.items()}}
        self._has_logged = True
        with open(self.folder / _HISTORY, "a", encoding="utf-8") as history:
            history.write(json.dumps(row) + "\n")
        if self._tracker:
            self._tracker.log(row)

    def picture(self, name: str, picture: "Image", step: int, epoch: float) -> None:
        """Log a picture to W&B."""
        if self._tracker:
            self._tracker.picture(name, picture, step, epoch)

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the training state; the one before it is kept too."""
        save_state(self.folder / _STATE, state)

    def load_state(self) -> dict[str, Any] | None:
        """The training state to continue from; None for a new run."""
        return load_state(self.folder / _STATE)

    def rewind(self, step: int) -> None:
        """Take out of the history what lies after `step`: a resumed run makes it again."""
        path = self.folder / _HISTORY
        if path.exists():
            rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= step]
            write_whole(path, "".join(kept).encode())

    def save_weights(self, name: Literal["model", "best"], model: nn.Module) -> None:
        """Write the model's weights as `NAME.safetensors`."""
        save_weights(self.folder / f"{name}.safetensors", model)

    def summarise(self, summary: dict[str, Any], picture: "Image | None" = None) -> None:
        """Write the final numbers as `summary.json`, and the final `reconstructions.png`; both go to W&B."""
        write_whole(self.folder / "summary.json", _json_bytes(summary))
        if picture:
            picture.save(self.folder / "reconstructions.png")
        if self._tracker:
            self._tracker.summarise(summary)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        where = self._tracker.finish(exit_code=0 if kind is None else 1) if self._tracker else ""
        if isinstance(error, InputError) and not self._has_logged:
            self._undo()
        elif where:
            print(where)

    def _undo(self) -> None:
        """Leave the folder as it was before bad input ended this run, or the attempt to resume it."""
        if self._before is not None:
            write_whole(self.folder / _CONFIG, self._before)
            return
        for name in (_CONFIG, _STATE):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "wandb", ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds what was there before
            self.folder.rmdir()


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` in a run's folder holds: experiment, id and config; raises InputError where it is no run."""
    path = folder / _CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no run in {folder}: it has no {_CONFIG}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}: {error}") from error
    if not isinstance(content, dict) or not {"experiment", "id", "config"} <= content.keys():
        raise InputError(f"{path} is no run's: it must have experiment, id and config")
    return content


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass or dict as what JSON can hold: paths become strings, tuples lists."""
    values = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config or {})
    return json.loads(json.dumps(values, default=str))


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _make_folder(folder: Path) -> None:
    """Make a folder that holds nothing yet, or raise InputError."""
    if (folder / _CONFIG).exists():
        raise InputError(f"{folder} already holds a run: continue it with --run.resume {folder}, or choose another")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"can't write in {folder}: {error.strerror}") from error
