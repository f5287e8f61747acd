"""Weights & Biases: the one module that imports wandb."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["auto", "online", "offline", "disabled"]


class Tracker:
    """One run in W&B, with `step` and `epoch` as the axes of its metrics."""

    def __init__(
        self, mode: Mode, project: str, experiment: str, run_id: str, folder: Path, config: dict[str, Any]
    ) -> None:
        import wandb

        if mode == "auto":
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            name=folder.resolve().name,
            id=run_id,
            dir=folder,
            config=config,
            job_type=experiment,
            mode=mode,
            resume="allow",
            settings=wandb.Settings(silent=True, init_timeout=20),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, row: dict[str, Any]) -> None:
        """Log metrics by their keys, `step` and `epoch` among them."""
        self._run.log(row)

    def picture(self, key: str, picture: "Image", step: int, epoch: float) -> None:
        """Log a picture."""
        self._run.log({key: self._wandb.Image(picture), "step": step, "epoch": epoch})

    def summarise(self, summary: dict[str, Any]) -> None:
        """Set the run's final numbers."""
        self._run.summary.update(summary)

    def finish(self, exit_code: int) -> str:
        """End the run in W&B; returns the line that says where it is."""
        folder, url = Path(self._run.dir).parent, None if self._run.offline else self._run.url
        self._run.finish(exit_code=exit_code)
        if url:
            return f"W&B  {url}"
        return f"W&B  offline: look with `wandb leet {folder}`, upload with `wandb sync {folder}`"
