from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from ae import InputError
from ae.runs.checkpoint import discard_broken, load_state, save_state


def test_save_state_keeps_previous_state(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    assert load_state(path) is None
    for step in range(3):
        save_state(path, {"step": step, "weights": {"a": torch.arange(step)}})
    state = load_state(path)
    assert state is not None
    assert state["step"] == 2
    assert torch.equal(state["weights"]["a"], torch.arange(2))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.prev.pt", "state.pt"]
    path.unlink()  # as a kill between the two renames leaves the folder
    state = load_state(path)
    assert state is not None
    assert state["step"] == 1


def test_load_state_rejects_broken_or_executable_state(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="can't read the training state in"):
        load_state(path)
    torch.save({"weights": Path("/")}, path)  # a class: reading it would execute code
    with pytest.raises(InputError, match="can't read the training state in"):
        load_state(path)


def save_two(path: Path) -> dict[str, Any]:
    """Save two states, and return the newer state."""
    for step in range(2):
        save_state(path, {"step": step, "weights": {"a": torch.arange(50.0) + step, "b": torch.ones(3, 4) * step}})
    state = load_state(path)
    assert state is not None
    return state


def are_equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["step"] == b["step"] and all(torch.equal(w, b["weights"][name]) for name, w in a["weights"].items())


@pytest.mark.parametrize("flips", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_load_state_detects_flipped_bit_and_falls_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flips: int
) -> None:
    """A flip in irrelevant bytes, such as a date, leaves the newer state intact."""
    path, random = tmp_path / "state.pt", Random(0)
    newer = save_two(path)
    content, fallbacks = path.read_bytes(), 0
    for _ in range(flips):
        flipped = bytearray(content)
        flipped[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(bytes(flipped))
        state = load_state(path)
        assert state is not None
        assert state["step"] == 0 or are_equal(state, newer)
        fallbacks += state["step"] == 0
    assert fallbacks > flips / 4
    assert capsys.readouterr().err.count("continuing from the previous state") == fallbacks


@pytest.mark.parametrize("length", [0, 1, 0.5, 0.99])
def test_load_state_falls_back_from_truncated_state(tmp_path: Path, length: float) -> None:
    path = tmp_path / "state.pt"
    save_two(path)
    content = path.read_bytes()
    path.write_bytes(content[: length if isinstance(length, int) else int(length * len(content))])
    state = load_state(path)
    assert state is not None
    assert state["step"] == 0


def test_discard_broken_protects_previous_state(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_two(path)
    path.write_bytes(b"broken")
    discard_broken(path)
    save_state(path, {"step": 5})
    path.unlink()
    state = load_state(path)
    assert state is not None
    assert state["step"] == 0


def test_load_state_names_both_broken_states(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_two(path)
    for file in (path, tmp_path / "state.prev.pt"):
        file.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"state\.pt.*state\.prev\.pt"):
        load_state(path)
