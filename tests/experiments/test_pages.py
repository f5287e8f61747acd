"""Documentation pages: snippets run, commands parse, links and files exist."""

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

README = "README.md"
FOLDERS = ("ae/*", "experiments", "experiments/*", "tests")
PAGES = [
    README,
    *sorted(str(page.relative_to(ROOT)) for folder in FOLDERS for page in ROOT.glob(f"{folder}/README.md")),
]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], flags=re.MULTILINE | re.DOTALL)


SNIPPETS = [
    pytest.param(block, id=f"{page}-{i}") for page in PAGES for i, block in enumerate(blocks("python", page), start=1)
]


@pytest.fixture(scope="module")
def runs(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs that the pages name, of the main job with minimal training."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("mine", "other"):
        main_job(digits, folder / "runs" / name)
    return folder


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setitem(sys.modules, "page", types.ModuleType("page"))  # where dataclasses resolve their types
    exec(compile(snippet, "page", "exec"), sys.modules["page"].__dict__)


@pytest.mark.usefixtures("few_digits")
def test_one_file_experiment_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = [block for block in blocks("python", "experiments/README.md") if "def main(" in block]
    (tmp_path / "denoise.py").write_text(snippet)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = importlib.import_module("denoise")
    small = "--data.limit 256 --data.validation 64 --recipe.steps 2 --run.wandb disabled --run.dir run"
    experiment.main(parse(experiment.Config, small.split()))
    assert (tmp_path / "run/summary.json").exists()


def test_first_snippet_has_its_commented_shapes() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python", README)[0], names)
    assert names["features"].shape == (8, 64, 7, 7)
    assert names["out"].reconstruction.shape == names["decoded"].shape == (8, 1, 28, 28)
    assert names["out"].predictions["digit"].shape == (8, 10)


def commands() -> list[str]:
    matches = [c for text in TEXTS.values() for c in re.findall(r"python -m experiments\.[a-z][^`#\n|&;]*", text)]
    return [command for command in matches if "--run.resume" not in command]  # the run is an example


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    _, _, module, *args = shlex.split(command.replace("$s", "0"))
    experiment = importlib.import_module(module)
    if not hasattr(experiment, "Config"):  # a package
        experiment = importlib.import_module(f"{module}.__main__")
    parse(experiment.Config, args)


def test_tree_names_every_module_and_package() -> None:
    tree = TEXTS[README].split("## The tree")[1].split("```")[1]
    modules = {path.name for path in (ROOT / "ae").rglob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\w+\.py", tree)) == modules
    folders = {f"{path.name}/" for path in (ROOT / "ae").rglob("*") if (path / "__init__.py").exists()}
    assert folders <= set(re.findall(r"\w+/", tree))


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page: str) -> None:
    prose = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    assert [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()] == []


def test_front_page_links_every_page() -> None:
    assert set(re.findall(r"\]\(([\w/]+/README\.md)\)", TEXTS[README])) == set(PAGES) - {
        README,
        "tests/files/README.md",
    }
