"""Compare a run on W&B's server with its local files, and upload the files that the server lacks."""

import tempfile
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ae.tracking.failures import Failures
from ae.tracking.folders import missing_media
from ae.tracking.row_log import RowLog, pictures_of_step
from ae.tracking.wandb_types import copy_file

if TYPE_CHECKING:
    import wandb

_MAX_ROWS = 1_000_000
_TIMEOUT = 5  # seconds


def check_upload(run: "wandb.Run", rows: RowLog, folders: list[Path], failures: Failures) -> None:
    """Record the rows and pictures that the server lacks, and whether it missed the end of the run."""
    server_run = _server_run(run)
    if rows.has_our_steps and server_run.lastHistoryStep < rows.last_step:
        failures.reasons["rows"] = f"after step {server_run.lastHistoryStep}"
    if server_run.state == "running":
        failures.reasons["end"] = "the server shows the run as running"
    uploaded = {file.name for file in server_run.files()}
    has_pictures = all(
        any(name.startswith(prefix) and name.endswith(suffix) for name in uploaded)
        for prefix, suffix in rows.picture_files
    )
    if not has_pictures or missing_media(uploaded, folders):
        failures.reasons["pictures"] = "the server lacks some"


def upload_missing_files(run: "wandb.Run", rows: RowLog, folders: list[Path], run_folder: Path) -> None:
    """Upload the media of W&B's `folders` and the pictures of the run's folder that the server lacks."""
    server_run = _server_run(run)
    uploaded = {file.name for file in server_run.files()}
    missing = missing_media(uploaded, folders)
    rows.lacks_test_media = any("test" in file.relative_to(root).parts for root, file in missing)
    for root, file in missing:
        server_run.upload_file(str(file), root=str(root))
    _upload_pictures(server_run, uploaded, run_folder)


def _upload_pictures(server_run: Any, uploaded: Set[str], run_folder: Path) -> None:
    """Upload pictures of the run's folder under the file names in the server's rows."""
    with tempfile.TemporaryDirectory() as copies:
        for name, path in _pictures_by_server_name(server_run, run_folder).items():
            if name not in uploaded:
                copy_file(path, Path(copies, name))
                server_run.upload_file(str(Path(copies, name)), root=copies)


def _pictures_by_server_name(server_run: Any, run_folder: Path) -> dict[str, Path]:
    pictures = {}
    for row in server_run.history(samples=_MAX_ROWS, pandas=False):
        for key, path in pictures_of_step(run_folder, int(row.get("step", -1))).items():
            if isinstance(row.get(key), dict) and "path" in row[key]:
                pictures[row[key]["path"]] = path
    return pictures


def _server_run(run: "wandb.Run") -> Any:
    import wandb

    return wandb.Api(timeout=_TIMEOUT).run(f"{run.entity}/{run.project}/{run.id}")
