"""Options of a run: its folder, its start, its saves and its tracking in W&B."""

from dataclasses import dataclass
from pathlib import Path

from ae.tracking.connection import Mode
from ae.tracking.options import check_options
from ae.tracking.wandb_types import Watch
from ae.utils.errors import InputError
from ae.utils.validation import Positive, Settings


@dataclass(frozen=True)
class RunConfig(Settings):
    """Folder and tracking of a run; W&B's environment variables (WANDB_...) set the fields that are None."""

    dir: Path | None = None  # the run's folder (default: runs/EXPERIMENT-TIME-ID)
    resume: Path | None = None  # continue the run in this folder, with its configuration; other flags override
    fork: Path | None = None  # start a new run from the weights and configuration of the run in this folder
    save_every: Positive[int] | None = None  # steps between saved states, in addition to each validation
    save_minutes: Positive[float] = 5.0  # minutes between saved states, in addition to each validation
    wandb: Mode = "auto"  # auto: online when logged in, else offline
    project: str | None = None  # project in W&B (default: ae)
    entity: str | None = None  # W&B user or team that owns the project
    group: str | None = None  # group of runs in W&B, such as the seeds of a setting
    job_type: str | None = None  # kind of run within a group (default: the experiment's name)
    name: str | None = None  # name shown in W&B (default: the folder's)
    tags: tuple[str, ...] = ()  # search terms in W&B
    notes: str | None = None  # description of the run in W&B
    watch: Watch | None = None  # histograms of gradients or parameters in W&B, with every logged row
    patience: Positive[float] = 12.0  # seconds to wait for W&B's server at the start, and twice that at the end

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume is not None and self.fork is not None:
            raise InputError("resume and fork exclude each other: continue a run, or start a new one from its weights")
        labels = {name: getattr(self, name) for name in ("project", "entity", "group", "job_type", "name", "notes")}
        check_options(labels, self.tags, type(self).__name__)

    def may_change(self, name: str) -> bool:
        """Whether a resumed run may have another value: true of every option here."""
        return True
