from pathlib import Path

import pytest
import torch

from ae import InputError
from ae.checkpoint import load_state, save_state


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
