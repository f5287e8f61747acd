"""W&B workspace: its specification, and a round trip through the server."""

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ae import InputError, Joint, RunConfig, Splits
from experiments import dashboard
from tests.helpers.tracked import history, job
from tests.helpers.wandb_server import WandbServer


def panels(spec: dict[str, object]) -> dict[str, list[dict[str, object]]]:
    sections = spec["section"]["panelBankConfig"]["sections"]  # type: ignore[index]
    return {section["name"]: section["panels"] for section in sections if section["panels"]}


def test_specification_has_every_panel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard.main(dashboard.Config(entity="me", project="digits", json=tmp_path / "spec.json"))
    assert "spec.json" in capsys.readouterr().out
    sections = panels(json.loads((tmp_path / "spec.json").read_text()))
    kinds = {name: [panel["viewType"] for panel in shown] for name, shown in sections.items()}
    assert kinds == {
        "Training": ["Run History Line Plot"] * 6,
        "Trade-offs": ["Scatter Plot"] * 2,
        "Weights of the objective": ["Parallel Coordinates Plot", "Parameter Importance"],
        "What differs": ["Run Comparer"],
        "Pictures": ["Media Browser"],
    }
    curves = [panel["config"]["metrics"] for panel in sections["Training"]]  # type: ignore[index]
    assert curves[:3] == [["train/loss", "val/loss"], ["train/mse", "val/mse"], ["train/accuracy", "val/accuracy"]]


def test_workspace_keys_are_logged(digits: Splits, tmp_path: Path) -> None:
    """Every key of the workspace is in the summary or history of the main job."""
    job(digits, RunConfig(dir=tmp_path / "run", wandb="disabled"))
    logged = {key for row in history(tmp_path / "run") for key in row}
    assert {key for keys in dashboard.CURVES.values() for key in keys} <= logged
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {key for x, y, _ in dashboard.TRADE_OFFS for key in (x, y)} <= summary.keys()
    assert set(dashboard.WEIGHTS) <= {field.name for field in fields(Joint)}


def test_workspace_is_saved_and_loaded(server: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    from wandb_workspaces.workspaces import Workspace

    dashboard.main(dashboard.Config(project="digits", name="digits at a glance"))
    address = capsys.readouterr().out.split("look ")[1].strip()
    loaded = Workspace.from_url(address)
    assert loaded.name == "digits at a glance"
    saved = dashboard.specification(loaded)
    assert panels(saved).keys() == panels(dashboard.specification(dashboard.build("tester", "digits", "x"))).keys()


def test_main_without_an_account_names_wandb_login() -> None:
    with pytest.raises(InputError, match=r"not logged in: run `wandb login`, or write the specification with --json"):
        dashboard.main(dashboard.Config())


def test_main_without_the_extra_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(InputError, match=r"the workspace needs the extra `dashboard`: pip install 'ae\[dashboard\]'"):
        dashboard.main(dashboard.Config())
