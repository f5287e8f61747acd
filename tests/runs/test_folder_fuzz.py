"""Damaged run folders: a resume succeeds, or raises a one-line InputError and leaves the folder unchanged."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ae import Images, InputError, Recipe, Run, RunConfig, Splits
from ae.training.meter import Meter
from ae.training.state import TrainState, restore, restore_weights, state_of
from ae.utils.seeding import generator

RECIPE = Recipe(steps=2, batch_size=4, optimizer="adamw", lr=0.01, log_every=1)
FILES = ("config.json", "history.jsonl", "summary.json", "state.pt", "state.prev.pt")
NAMES = st.sampled_from(
    ["experiment", "id", "config", "changes", "data", "recipe", "lr", "step", "epoch", "val/mse", "training", "images"]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["test", 10**400, 2**63, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
CASES = st.tuples(
    st.sampled_from(FILES),
    st.one_of(
        st.tuples(st.just("bytes"), st.binary(max_size=60)),
        st.tuples(st.just("json"), JSON),
        st.tuples(st.just("field"), JSON, st.integers(0, 200)),
        st.tuples(st.just("cut"), st.floats(0, 1)),
        st.tuples(st.just("flip"), st.integers(0, 2**20), st.integers(0, 7)),
        st.tuples(st.just("gone")),
        st.tuples(st.just("folder")),
    ),
)


def train(where: RunConfig) -> None:
    """Train a linear layer for two steps, or for the remaining steps."""
    pixels = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8, generator=generator("fuzz"))
    torch.manual_seed(0)
    trained, meter = nn.ModuleDict({"model": nn.Linear(3, 2)}), Meter()
    optimizers = {"optimizer": RECIPE.make_optimizer(list(trained.parameters()))}
    with Run("test", where, {"recipe": RECIPE}) as run:
        run.begin_training(Splits(Images(pixels, torch.arange(8) % 2, ("a", "b"))))
        saved = restore_weights(run, trained)
        at = restore(run, saved, trained, optimizers, meter, total_steps=2, new=TrainState("fp32"), before="fp32")
        while at.step < 2:
            trained["model"](torch.ones(4, 3)).square().mean().backward()
            optimizers["optimizer"].step()
            at.step += 1
            run.log({"train/loss": 1.0, "val/mse": 0.5}, at.step, at.step / 2)
            run.save_state(state_of(at, trained, optimizers, meter))
        run.summarise({"test/mse": 0.5})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    train(RunConfig(dir=folder, wandb="disabled"))
    return folder


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the container and the key of every entry of nested dicts and lists."""
    entries = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, each in entries:
        yield value, key
        yield from places(each)


def damage(path: Path, how: tuple[Any, ...]) -> None:
    content = path.read_bytes()
    match how:
        case "bytes", new:
            path.write_bytes(new)
        case "json", value:
            if path.suffix == ".pt":
                torch.save(value, path)
            else:
                path.write_text(json.dumps(value) + "\n")
        case "field", value, number:
            set_field(path, value, number)
        case "cut", kept:
            path.write_bytes(content[: int(kept * len(content))])
        case "flip", place, bit:
            flipped = bytearray(content)
            flipped[place % len(content)] ^= 1 << bit
            path.write_bytes(bytes(flipped))
        case ("gone",):
            path.unlink()
        case ("folder",):
            path.unlink()
            path.mkdir()


def set_field(path: Path, value: Any, number: int) -> None:
    """Replace an entry by `value`."""
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        entries = list(places(state))
        holder, key = entries[number % len(entries)]
        holder[key] = value
        torch.save(state, path)
        return
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
    content = lines if lines is not None else json.loads(path.read_text())
    entries = list(places(content))
    holder, key = entries[number % len(entries)]
    holder[key] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in lines) if lines is not None else json.dumps(content))


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def check(whole: Path, case: tuple[str, tuple[Any, ...]]) -> None:
    folder = whole.with_name("damaged")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    damage(folder / case[0], case[1])
    before, refusal = contents(folder), ""
    try:
        train(RunConfig(resume=folder, wandb="disabled"))
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 1000
    assert not refusal or contents(folder) == before


@given(case=CASES)
@settings(max_examples=50)
def test_resume_of_damaged_folder_succeeds_or_raises_one_line(whole: Path, case: tuple[str, tuple[Any, ...]]) -> None:
    check(whole, case)


def test_restore_rejects_a_huge_integer_in_any_entry_of_the_state(whole: Path) -> None:
    entries = len(list(places(torch.load(whole / "state.pt", weights_only=True))))
    for number in range(entries):
        check(whole, ("state.pt", ("field", 10**400, number)))


@pytest.mark.slow
@given(case=CASES)
@settings(max_examples=2000)
def test_resume_of_many_damaged_folders_succeeds_or_raises_one_line(
    whole: Path, case: tuple[str, tuple[Any, ...]]
) -> None:
    check(whole, case)
