"""Record of a run that is open for writing: its folder, and the same in W&B."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ae.runs.folder import best_of, read_history, read_summary
from ae.runs.storage import Storage
from ae.runs.tracking import weight_files
from ae.tracking.media import Media
from ae.tracking.row_log import Row
from ae.tracking.tracker import Tracker
from ae.utils.console import say
from ae.utils.signals import uninterrupted

if TYPE_CHECKING:
    from PIL.Image import Image


class Record:
    """Write rows, pictures and the summary to a run's folder and, with a tracker, to W&B."""

    def __init__(self, storage: Storage, tracker: Tracker | None) -> None:
        self.storage, self.tracker = storage, tracker
        self.has_logged = False
        self._position: tuple[int, float] = (0, 0.0)  # step and epoch of the last row
        self._is_summarised = False

    def log(self, row: Row, pictures: Mapping[str, "Image"]) -> None:
        """Write a row and its pictures; a signal waits until the history and W&B have both."""
        self.has_logged = True
        self._position = int(row["step"]), row["epoch"]
        with uninterrupted():
            self.storage.append_row(row, pictures)
            self._track(row)

    def rewind(self, step: int) -> None:
        """Remove rows after `step` from the history, and log the others in W&B where it lacks them."""
        for row in self.storage.rewind(step):
            self._track_again(row)

    def summarise(self, summary: dict[str, Any], media: Media) -> None:
        """Write the summary, with the last step and epoch and the best validation metrics, and the test's media."""
        step, epoch = self._position
        summary = {"step": step, "epoch": epoch, **summary, **best_of(read_history(self.storage.folder))}
        self.storage.write_summary(summary, media)
        self._track_summary(summary, media)

    def upload(self) -> bool:
        """Send the folder's content to W&B; return whether the run has its summary."""
        folder = self.storage.folder
        for row in read_history(folder):
            self._track_again(row)
        if self.tracker:
            self.tracker.send_missing_files()
        summary = read_summary(folder)
        if summary is not None:
            self._track_summary(summary, Media.load(folder))
        return summary is not None

    def finish(self, exit_code: int) -> None:
        """Finish the run in W&B; without a summary, W&B gets the best metrics and weights so far."""
        if self.tracker:
            if not self._is_summarised:
                self._track_summary(best_of(read_history(self.storage.folder)), Media())
            say(self.tracker.finish(exit_code))
            self.tracker = None

    def undo(self) -> None:
        """Remove what a new run has written, and end it in W&B as failed."""
        if self.tracker:
            self.tracker.finish(2)
        self.storage.undo()

    def _track(self, row: Row) -> None:
        if self.tracker:
            self.tracker.log(row)

    def _track_again(self, row: Row) -> None:
        self._position = int(row["step"]), row.get("epoch", 0.0)
        self._track(row)

    def _track_summary(self, summary: dict[str, Any], media: Media) -> None:
        self._is_summarised = True
        if self.tracker:
            step, epoch = self._position
            files = weight_files(self.storage.folder, summary)
            self.tracker.summarise(summary, media, {"step": step, "epoch": epoch}, files)
