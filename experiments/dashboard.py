"""A W&B workspace for a project: curves, trade-offs, weights of the objective, differences of runs, pictures.

python -m experiments.dashboard --entity ME --project ae
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ae.cli import cli
from ae.evaluation.metrics import higher_is_better
from ae.utils.distributed import on_main
from ae.utils.errors import InputError, one_line
from ae.utils.extras import extra
from ae.utils.files import write_whole
from ae.utils.validation import Settings

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

CURVES = {
    "loss": ["train/loss", "val/loss"],
    "squared error": ["train/mse", "val/mse"],
    "accuracy": ["train/accuracy", "val/accuracy"],
    "cross-entropy": ["train/cross_entropy", "val/cross_entropy"],
    "gradient norm": ["train/gradient_norm"],
    "learning rate": ["train/learning_rate"],
}
TRADE_OFFS = [
    ("test/mse", "test/accuracy", "reconstruction against accuracy"),
    ("code_size", "test/mse", "size of the code against reconstruction"),
]
WEIGHTS = ["reconstruction", "classification", "beta", "aux"]
PICTURES = ["reconstructions", "test/reconstructions", "test/code"]


@dataclass(frozen=True)
class Config(Settings):
    """The project, and the workspace's name. Needs the extra `dashboard`."""

    entity: str | None = None  # user or team of the project (default: the user who is logged in)
    project: str = "ae"  # project in W&B
    name: str = "ae"  # of the workspace
    json: Path | None = None  # write the workspace's specification to this file, and don't save it in W&B


def build(entity: str, project: str, name: str) -> "Workspace":
    """Build the workspace, and do not save it."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    def column(metric: str, title: str | None = None) -> Any:
        return reports.ParallelCoordinatesPlotColumn(metric, display_name=title)

    curves = [reports.LinePlot(title=title, x="step", y=list(keys)) for title, keys in CURVES.items()]
    trade_offs = [
        reports.ScatterPlot(title=title, x=reports.SummaryMetric(x), y=reports.SummaryMetric(y))
        for x, y, title in TRADE_OFFS
    ]
    columns = [
        *(column(f"c::objective.{weight}", weight) for weight in WEIGHTS),
        column("c::model.latent", "latent"),
        column("test/mse"),
        column("test/accuracy"),
    ]
    sections: dict[str, list[Any]] = {
        "Training": curves,
        "Trade-offs": trade_offs,
        "Weights of the objective": [
            reports.ParallelCoordinatesPlot(title="weights against what was reached", columns=columns),
            reports.ParameterImportancePlot(with_respect_to="test/mse"),
        ],
        "What differs": [reports.RunComparer(diff_only="split")],
        "Pictures": [reports.MediaBrowser(title="reconstructions and codes", media_keys=PICTURES, num_columns=2)],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[workspaces.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
        settings=workspaces.WorkspaceSettings(x_axis="step"),
        runset_settings=workspaces.RunsetSettings(
            order=[
                workspaces.Ordering(
                    workspaces.Summary("test/accuracy"), ascending=not higher_is_better("test/accuracy")
                )
            ]
        ),
    )


def specification(workspace: "Workspace") -> dict[str, Any]:
    """The workspace as W&B's server receives it."""
    return json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


@on_main
def main(config: Config) -> None:
    """Save the workspace in W&B and print its address, or write its specification."""
    with extra("dashboard", "the workspace"):
        import wandb_workspaces  # noqa: F401
    import wandb

    if config.json is not None:
        workspace = build(config.entity or "", config.project, config.name)
        write_whole(config.json, json.dumps(specification(workspace), indent=2).encode())
        print(f"specification  {config.json}")
        return
    if not wandb.login(prompt=False, verify=False):
        raise InputError("not logged in: run `wandb login`, or write the specification with --json FILE")
    try:
        workspace = build(config.entity or wandb.Api().default_entity or "", config.project, config.name)
        workspace.save()
    except Exception as error:  # the server's answers can raise any exception in the library
        raise InputError(f"can't save the workspace: {one_line(error)}") from error
    print(f"look {workspace.url}")


if __name__ == "__main__":
    cli(main)
