"""What the README says is so: its snippets run, its commands parse, its files exist."""

import importlib
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ae import Splits
from ae.cli import parse
from tests.helpers import ROOT
from tests.helpers.tracked import main_job

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def runs(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that the README speaks of, of the main job and trained for an instant."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("mine", "other"):
        main_job(digits, folder / "runs" / name)
    return folder


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("snippet", blocks("python"))
def test_snippets_run(snippet: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setitem(sys.modules, "readme", types.ModuleType("readme"))  # where dataclasses look for their types
    exec(compile(snippet, "README.md", "exec"), sys.modules["readme"].__dict__)


@pytest.mark.usefixtures("few_digits")
def test_the_experiment_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = [block for block in blocks("python") if "def main(" in block]
    (tmp_path / "denoise.py").write_text(snippet)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = importlib.import_module("denoise")
    small = "--data.limit 256 --data.validation 64 --recipe.steps 2 --run.wandb disabled --run.dir run"
    experiment.main(parse(experiment.Config, small.split()))
    assert (tmp_path / "run/summary.json").exists()


def test_the_first_snippet_gives_the_shapes_that_it_says() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    assert names["features"].shape == (8, 64, 7, 7)
    assert names["out"].reconstruction.shape == names["again"].shape == (8, 1, 28, 28)
    assert names["out"].logits["digit"].shape == (8, 10)


def commands() -> list[str]:
    found = re.findall(r"python -m experiments\.[^`#\n|&;]*", README)
    return [command for command in found if "--run.resume" not in command]  # its run is an example


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str) -> None:
    _, _, module, *args = shlex.split(command.replace("$s", "0"))
    experiment = importlib.import_module(module)
    if not hasattr(experiment, "Config"):  # a folder
        experiment = importlib.import_module(f"{module}.__main__")
    parse(experiment.Config, args)


def test_named_files_exist() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    modules = {path.name for path in (ROOT / "ae").rglob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\w+\.py", tree)) == modules
    folders = {f"{path.name}/" for path in (ROOT / "ae").rglob("*") if (path / "__init__.py").exists()}
    assert folders <= set(re.findall(r"\w+/", tree))
    for picture in re.findall(r"\]\((experiments/.*?)\)", README):
        assert (ROOT / picture).exists(), picture
