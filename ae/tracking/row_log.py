"""Log rows, pictures and test results in a W&B run, every training step once, also after a resume."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ae.tracking.failures import Failures
from ae.tracking.media import Media
from ae.tracking.wandb_types import Watch, histograms, stored_name, wandb_table

if TYPE_CHECKING:
    import wandb

Row = dict[str, int | float]
"""Logged values of a step by their keys, `step` and `epoch` among them."""


class RowLog:
    """Log rows in W&B, with our training step as W&B's step, so that W&B can ignore rows that it already has.

    W&B numbers the rows itself in a run that the user opened or another program began (`has_our_steps` is false).
    """

    def __init__(self, folder: Path, failures: Failures, has_our_steps: bool) -> None:
        self._folder, self._failures = folder, failures
        self._run: wandb.Run | None = None
        self.has_our_steps = has_our_steps
        self.first_step, self.last_step = 0, -1  # first_step: W&B has all rows before it
        self.watched: tuple[nn.Module, Watch] | None = None
        self.lacks_test_media = False  # whether the server lacks test media that an earlier start of the run logged
        self.picture_files: set[tuple[str, str]] = set()  # prefix and suffix of the file of every logged picture

    def attach(self, run: "wandb.Run", first_step: int) -> None:
        """Log in this run from `first_step` on."""
        self._run, self.first_step = run, first_step

    def resume(self, run: "wandb.Run", is_first_opening: bool) -> None:
        """Log in this run from the first step that W&B's server lacks.

        A run that another program began, and that we open for the first time, keeps its own step.
        """
        self._run = run
        if run.offline or run.starting_step == 0:
            self.first_step = 0
        elif is_first_opening:
            self.has_our_steps = False
            self.first_step = 0
        else:
            logged = int(run.summary.get("step", -1))
            self.has_our_steps &= run.starting_step <= logged + 2  # the test may have a step of its own
            self.first_step = run.starting_step if self.has_our_steps else logged + 1

    def log(self, row: Row) -> None:
        """Log a row with its pictures and histograms; without them where W&B fails to take them."""
        import wandb

        step = int(row["step"])
        media: dict[str, Any] = {}
        pictures = pictures_of_step(self._folder, step)
        with self._failures.tolerated("pictures"):
            media |= {name: wandb.Image(str(path)) for name, path in pictures.items()}
        with self._failures.tolerated("histograms"):
            media |= histograms(*self.watched) if self.watched else {}
        try:
            self._log({**row, **media}, step)
            for name, path in pictures.items():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                self.picture_files.add((f"media/images/{name}_", f"_{digest[:20]}.png"))
        except Exception as error:
            if not media:
                raise
            self._log(dict(row), step)
            self._failures.record("pictures", error)

    def log_test(self, summary: Mapping[str, Any], media: Media, at: Mapping[str, int | float]) -> None:
        """Log the test metrics and media in the last row, unless W&B has them; metrics alone where media fail."""
        import wandb

        metrics = {key: value for key, value in summary.items() if key.startswith("test/") and key.count("/") == 1}
        names = {f"test/{stored_name(name)}" for name in (*media.pictures, *media.tables)}
        if self._has_logged(names, metrics):
            return
        step = max(int(at["step"]), self.first_step)
        converted: dict[str, Any] = {}
        for name, picture in media.pictures.items():
            with self._failures.tolerated("test's pictures"):
                converted[f"test/{name}"] = wandb.Image(picture)
        for name, table in media.tables.items():
            with self._failures.tolerated("test's tables"):
                converted[f"test/{name}"] = wandb_table(name, table)
        try:
            self._log({**at, **metrics, **converted}, step)
            self.picture_files |= {(f"media/images/test/{name}_", ".png") for name in media.pictures}
        except Exception as error:
            self._log({**at, **metrics}, step)
            self._failures.record("test's pictures and tables", error)

    def _log(self, row: dict[str, Any], step: int) -> None:
        """Log at our step, so that W&B merges all rows of a step; or at W&B's own step."""
        assert self._run is not None
        self._run.log(row, step=step if self.has_our_steps else None)
        self.last_step, self.first_step = step, max(self.first_step, step)

    def _has_logged(self, media: set[str], metrics: Mapping[str, Any]) -> bool:
        """Whether the server has these media and metrics; W&B's summary holds the last value of each key."""
        assert self._run is not None
        summary = self._run.summary
        return (
            not self.lacks_test_media
            and media <= set(summary.keys())
            and all(summary.get(key) == value for key, value in metrics.items())
        )


def pictures_of_step(folder: Path, step: int) -> dict[str, Path]:
    """The pictures of a step in the run's folder, by name."""
    paths = (folder / "pictures").glob(f"*-{step:08d}.png")
    return {path.stem.rpartition("-")[0]: path for path in paths}
