"""A run: a folder with all of its files, and a run in W&B."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from ae.data import Splits
from ae.data.identity import data_identity, differences
from ae.runs.checkpoint import load_state
from ae.runs.config import RunConfig
from ae.runs.folder import STATE, ConfigFile, read_history, to_json
from ae.runs.record import Record
from ae.runs.rows import checked_row
from ae.runs.saving import SavingPolicy
from ae.runs.start import load_forked_weights, load_resumed_state, start_new, start_resumed
from ae.runs.storage import Storage, check_file_name
from ae.runs.tracking import check_tracking, open_tracker
from ae.tracking.media import Media
from ae.tracking.row_log import Row
from ae.utils.distributed import from_main, is_sharded, on_main
from ae.utils.errors import InputError
from ae.utils.signals import ending
from ae.utils.validation import checked

if TYPE_CHECKING:
    from PIL.Image import Image


class Run:
    """A folder with configuration, history, weights, training state, summary and pictures, and the same in W&B.

    `config` is a dataclass or dict, saved in `config.json`. As a context manager, the run finishes in W&B at the end,
    as failed after an exception or SIGTERM; otherwise call `finish`. An InputError before the first logged row undoes a
    new run. A resumed run is only read until its state is accepted, by `rewind` or any other method that writes. It
    needs the experiment and the data of its start. The folder is complete without W&B, whatever fails there. A W&B run
    that the user has open is used and left open. Only the main process writes.

    Raises InputError, before anything is written, if the folder can't be used or another process has the run open. With
    `may_fall_back=False` it is raised if W&B's server can't be reached, too.
    """

    def __init__(
        self, experiment: str, where: RunConfig | None = None, config: Any = None, *, may_fall_back: bool = True
    ) -> None:
        where = checked(where, RunConfig | None, "where") or RunConfig()
        check_file_name(experiment, "experiment")
        config_json = to_json(config)
        self._run_config, self._may_fall_back = where, may_fall_back
        self._saving = SavingPolicy(where.save_every, where.save_minutes)
        self._storage: Storage
        self._config_file: ConfigFile
        self._record: Record | None = None  # once the run is open for writing
        self._is_finished = False
        self.folder, self.id = where.resume or where.dir or Path("runs"), ""
        from_main(lambda: self._start(experiment, config, config_json))

    def _start(self, experiment: str, config: Any, config_json: dict[str, Any]) -> None:
        """Create a new run, and open it; or check and lock a run to resume."""
        where = self._run_config
        check_tracking(where)
        if where.resume is None:
            self._storage, self._config_file = start_new(experiment, where.dir, config_json)
        else:
            self._storage, self._config_file = start_resumed(experiment, where.resume, config, config_json)
        self.folder, self.id = self._storage.folder, self._config_file.id
        if where.resume is None:
            try:
                with ending:  # W&B's server may be slow
                    self._open()
            except (InputError, KeyboardInterrupt, SystemExit):
                self._storage.undo()
                raise

    def _open(self) -> Record:
        """Return the record for writing; the first call opens the run in W&B and writes its configuration."""
        if self._is_finished:
            raise InputError(f"the run in {self.folder} is finished: continue it with --run.resume {self.folder}")
        if self._record is None:
            self._storage.remove_temporaries()
            tracker = open_tracker(self._run_config, self.folder, self._config_file, self._may_fall_back)
            self._record = Record(self._storage, tracker)
            self._storage.write_config(self._config_file)
        return self._record

    def begin_training(self, data: Splits) -> None:
        """Record the identity of the training data; raises InputError if a resumed run was started on other data."""
        from_main(lambda: self._check_data(data))

    def _check_data(self, data: Splits) -> None:
        identity = data_identity(data)
        if self._config_file.data is None:
            self._config_file.data = identity
            if self._record is not None:
                self._storage.write_config(self._config_file)
        elif changed := differences(self._config_file.data, identity):
            raise InputError(
                f"the run in {self.folder} was begun on other data: {'; '.join(changed)}; "
                "continue it with the same data, or start from its weights with --run.fork"
            )

    @on_main
    def settle(self, name: str, value: str | int | float) -> None:
        """Record what a setting that was left open became, in `config.json` and W&B.

        `name` is as in `recipe.precision`. A configuration without this setting is left as it is.
        """
        *sections, key = name.split(".")
        section: Any = self._config_file.config
        for each in sections:
            section = section.get(each) if isinstance(section, dict) else None
        if not isinstance(section, dict) or section.get(key) in (None, value):
            return
        section[key] = value
        record = self._open()
        record.storage.write_config(self._config_file)
        if record.tracker:
            record.tracker.update_config(self._config_file.config)

    @on_main
    def log(
        self, row: Mapping[str, Any], step: int, epoch: float, pictures: Mapping[str, "Image"] | None = None
    ) -> None:
        """Log the values of `step`, once a step, to the history and W&B, and its pictures to the folder `pictures`.

        Values are numbers of Python or NumPy, or tensors of one number; a non-finite value is null in the history.
        Raises InputError that names the key of any other value, or a reserved key.
        """
        values = checked_row(row, step, epoch)
        for name in pictures or {}:
            check_file_name(name, "a picture's name")
        self._open().log(values, pictures or {})

    def watch(self, model: nn.Module) -> None:
        """Log histograms of gradients or parameters in W&B with every row, if `RunConfig.watch` asks for them."""
        if not self._run_config.watch:
            return
        if any(map(is_sharded, model.parameters())):
            raise InputError("RunConfig.watch can't see weights that Recipe.shard shares out: leave one of them out")
        self._watch(model)

    @on_main
    def _watch(self, model: nn.Module) -> None:
        tracker = self._open().tracker
        if tracker and self._run_config.watch:
            tracker.watch(model, self._run_config.watch)

    def saves_after(self, step: int) -> bool:
        """Whether to save the training state after `step` steps, by `save_every`."""
        return self._saving.saves_after(step)

    def wants_state(self) -> bool:
        """Whether to save the training state now, by `save_minutes` or because a signal waits for it."""
        return self._saving.saves_now()

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the training state, and keep the previous state; a signal that waited for it ends the run."""
        self._write_state(state)
        self._saving.has_saved()

    @on_main
    def _write_state(self, state: dict[str, Any]) -> None:
        self._open().storage.save_state(state)

    def deferring_signals(self) -> AbstractContextManager[None]:
        """Delay signals that end the run to the next `save_state`; `wants_state` is true as soon as a signal waits."""
        return self._saving.deferring_signals()

    @property
    def is_asked_to_end(self) -> bool:
        """Whether a signal that ends the run waits for the next `save_state`."""
        return self._saving.is_asked_to_end

    def load_state(self) -> dict[str, Any] | None:
        """Return the training state to continue from; None for a new run.

        Raises InputError if the state of a resumed run is lost: the training would start again.
        """
        is_resumed = self._run_config.resume is not None
        return from_main(lambda: load_resumed_state(self.folder) if is_resumed else load_state(self.folder / STATE))

    @on_main
    def load_fork(self, model: nn.Module) -> None:
        """Load the weights of the run that this run is a fork of, if it is a fork: final weights, or the latest."""
        if self._run_config.fork is not None:
            load_forked_weights(self._run_config.fork, model)

    @on_main
    def rewind(self, step: int) -> None:
        """Go back to `step`: later rows are removed from the history, and W&B gets earlier rows that it lacks."""
        self._open().rewind(step)

    def history(self) -> list[Row]:
        """Return the rows logged so far."""
        return read_history(self.folder)

    @on_main
    def save_weights(
        self,
        name: Literal["model", "best", "prior"],
        model: nn.Module,
        image: Sequence[int] | None = None,
        classes: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write the model's weights, with image shape, classes and metrics as metadata, to `NAME.safetensors`."""
        self._open().storage.save_weights(name, model, image, classes, metrics)

    @on_main
    def summarise(self, summary: dict[str, Any], media: Media | None = None) -> None:
        """Write `summary.json` and the pictures and tables of the test, and send all to W&B.

        The summary gets `step` and `epoch` of the last row, and `best/val/...`, the best value of each metric.
        """
        self._open().summarise(summary, media or Media())

    def upload(self) -> bool:
        """Send all of an ended run's folder to W&B; return whether the run has its summary."""
        return self._open().upload()

    @on_main
    def finish(self, exit_code: int = 0) -> None:
        """Finish the run in W&B and print its address and, if W&B lacks anything, the command that uploads the rest.

        Without a summary, W&B gets the best metrics and weights so far.
        """
        if self._record:
            self._record.finish(exit_code)
        self._is_finished = True
        self._storage.release()

    def __enter__(self) -> "Run":
        ending.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_new = self._run_config.resume is None
        try:
            if isinstance(error, InputError) and is_new and self._record and not self._record.has_logged:
                self._record.undo()
            else:
                self.finish(_exit_code(error))
        finally:
            ending.__exit__(kind, error, trace)


def _exit_code(error: BaseException | None) -> int:
    """Return the exit code of a process that ends by this exception."""
    match error:
        case None:
            return 0
        case SystemExit(code=int(code)):
            return code
        case SystemExit(code=None):
            return 0
        case KeyboardInterrupt():
            return 130
    return 1
