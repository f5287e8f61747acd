from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from ae import InputError
from ae.runs.checkpoint import discard_broken, load_state, save_state


def test_state_comes_back_and_the_one_before_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    assert load_state(path) is None
    for step in range(3):
        save_state(path, {"step": step, "weights": {"a": torch.arange(step)}})
    state = load_state(path)
    assert state is not None
    assert state["step"] == 2
    assert torch.equal(state["weights"]["a"], torch.arange(2))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.prev.pt", "state.pt"]
    path.unlink()  # as a kill between the two renames leaves it
    state = load_state(path)
    assert state is not None
    assert state["step"] == 1


def test_a_broken_or_hostile_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="can't read the training state in"):
        load_state(path)
    torch.save({"weights": Path("/")}, path)  # a class: reading it would run code
    with pytest.raises(InputError, match="can't read the training state in"):
        load_state(path)


def saved(path: Path) -> dict[str, Any]:
    """Two states, of which the newer one is returned."""
    for step in range(2):
        save_state(path, {"step": step, "weights": {"a": torch.arange(50.0) + step, "b": torch.ones(3, 4) * step}})
    state = load_state(path)
    assert state is not None
    return state


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["step"] == other["step"] and all(torch.equal(w, other["weights"][k]) for k, w in one["weights"].items())


@pytest.mark.parametrize("flips", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_noticed_and_the_one_before_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flips: int
) -> None:
    """Unless it is in what means nothing, such as a date: then the state is the one that was written."""
    path, random = tmp_path / "state.pt", Random(0)
    newer = saved(path)
    content, fell_back = path.read_bytes(), 0
    for _ in range(flips):
        flipped = bytearray(content)
        flipped[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(bytes(flipped))
        state = load_state(path)
        assert state is not None
        assert state["step"] == 0 or same(state, newer)
        fell_back += state["step"] == 0
    assert fell_back > flips / 4
    assert capsys.readouterr().err.count("going on from the one before it") == fell_back


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_a_truncated_state_leads_to_the_one_before(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "state.pt"
    saved(path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    state = load_state(path)
    assert state is not None
    assert state["step"] == 0


def test_a_broken_state_does_not_push_out_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    saved(path)
    path.write_bytes(b"broken")
    discard_broken(path)
    save_state(path, {"step": 5})
    path.unlink()
    state = load_state(path)
    assert state is not None
    assert state["step"] == 0


def test_two_broken_states_are_both_named(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    saved(path)
    for file in (path, tmp_path / "state.prev.pt"):
        file.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"state\.pt.*state\.prev\.pt"):
        load_state(path)
