"""The journal of a study, `study.log`: an append-only log of Optuna that several processes share."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from ae.sweeps.space import Sweep
from ae.utils.errors import InputError, one_line
from ae.utils.extras import extra
from ae.utils.files import check_regular

if TYPE_CHECKING:
    import optuna
    from optuna.storages.journal import JournalFileSymlinkLock


def open_study(sweep: Sweep, path: Path) -> "optuna.Study":
    """Open or create the study in a journal; raises InputError for a broken journal, or without Optuna."""
    with extra("sweep", "a sweep without a server"):
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    lock = JournalFileSymlinkLock(str(path))
    _repair(path, lock)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if sweep.min_iter is not None:
        pruner = optuna.pruners.SuccessiveHalvingPruner(sweep.min_iter, sweep.eta)
    with journal_errors(path):
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(path), lock)),
            study_name=sweep.name,
            direction="maximize" if sweep.maximize else "minimize",
            load_if_exists=True,
            pruner=pruner,
        )
        if sweep.method == "grid":
            enqueued = len(study.get_trials(deepcopy=False))
            for point in sweep.grid()[enqueued:]:  # a kill may have interrupted this loop before
                study.enqueue_trial({name: json.dumps(value) for name, value in point.items()})
    return study


@contextmanager
def journal_errors(path: Path) -> Iterator[None]:
    """Convert exceptions of Optuna, from well-formed entries of the journal that it can't use, to InputError."""
    try:
        yield
    except (InputError, Timeout, OSError):
        raise
    except Exception as error:
        raise InputError(f"can't go on with {path}: {type(error).__name__}: {one_line(error)}") from error


def _repair(path: Path, lock: "JournalFileSymlinkLock") -> None:
    """Check each line, and remove an incomplete last line, left by a kill: Optuna would append to it."""
    if not path.exists():
        return
    check_regular(path)
    lock.acquire()
    try:
        with open(path, "rb+") as file:
            length = 0
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    _check_entry(line, f"{path}, line {number}")
                    length += len(line)
            file.truncate(length)
    finally:
        lock.release()


def _check_entry(line: bytes, where: str) -> None:
    """Raise InputError unless a line has the form of a journal entry of Optuna."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is broken: {one_line(error)}") from error
    is_entry = isinstance(entry, dict) and type(entry.get("op_code")) is int and isinstance(entry.get("worker_id"), str)
    if not is_entry:
        raise InputError(f"{where} is not a journal entry: it must have op_code and worker_id")
