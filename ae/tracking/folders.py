"""W&B's folders of a run: `wandb/run-TIME-ID`, or offline `wandb/offline-run-TIME-ID`, new at every resume."""

import re
from collections.abc import Set
from pathlib import Path


def run_folders(run_id: str, *parents: Path) -> list[Path]:
    """List W&B's folders of a run below `PARENT/wandb`, in the order of their creation."""
    pattern = re.compile(rf"(?:offline-)?run-(\d+_\d+)-{re.escape(run_id)}(?:-(\d+))?")  # a number within one second
    places = dict.fromkeys(parent.resolve() / "wandb" for parent in parents)
    matches = [(pattern.fullmatch(folder.name), folder) for place in places for folder in place.glob("*")]
    return [
        folder for _, _, folder in sorted((match[1], int(match[2] or 0), folder) for match, folder in matches if match)
    ]


def is_unsynced(folder: Path) -> bool:
    """Whether a folder was written offline and has not been uploaded."""
    return folder.name.startswith("offline-") and not list(folder.glob("*.wandb.synced"))


def set_aside(folder: Path) -> None:
    """Move a folder to `superseded`, where `wandb sync` does not look."""
    (folder.parent / "superseded").mkdir(exist_ok=True)
    folder.rename(folder.parent / "superseded" / folder.name)


def missing_media(uploaded: Set[str], folders: list[Path]) -> list[tuple[Path, Path]]:
    """List media files that the server lacks, as (root, file below the root)."""
    files = [(folder / "files", file) for folder in folders for file in (folder / "files" / "media").rglob("*.*")]
    return [(root, file) for root, file in files if file.relative_to(root).as_posix() not in uploaded]
