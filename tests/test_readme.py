"""What the README says is so: its snippets run, its commands parse, its files exist."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ae.cli import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", blocks("python"))
def test_snippets_run(snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})


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
    parse(importlib.import_module(module).Config, args)


def test_named_files_exist() -> None:
    table = README.split("## Where things are")[1].split("##")[0]
    for cell in re.findall(r"^\| (.*?) \|", table, flags=re.MULTILINE)[2:]:
        folder = ""
        for path in re.findall(r"`(.*?)`", cell):
            folder = path.rpartition("/")[0] or folder
            assert (ROOT / folder / path.rpartition("/")[2]).exists(), path
    for picture in re.findall(r"\]\((experiments/.*?)\)", README):
        assert (ROOT / picture).exists(), picture
