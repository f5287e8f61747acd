import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Dense, InputError
from ae.checkpoint import describe, load_state, load_weights, save_state, save_weights, write_whole


def joint(latent: int = 5) -> Autoencoder:
    encoder = ConvEncoder(3, (4, 6), norm=True, mean=[0.25, 0.5, 0.75])
    heads = {"digit": Classifier((latent,), 7, hidden=9)}
    return Autoencoder(encoder, DeconvDecoder(3, (6, 4)), Dense((6, 7, 7), latent), heads)


def test_weights_come_back_and_the_header_describes_the_modules(tmp_path: Path) -> None:
    path, model, other = tmp_path / "model.safetensors", joint(), joint()
    save_weights(path, model)
    load_weights(path, other)
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert list(header) == ["ae"]
    assert json.loads(header["ae"]) == {
        "format": 1,
        "model": {
            "class": "Autoencoder",
            "encoder": {
                "class": "ConvEncoder",
                "in_channels": 3,
                "channels": [4, 6],
                "norm": True,
                "mean": [0.25, 0.5, 0.75],
                "std": [0.5, 0.5, 0.5],
            },
            "decoder": {"class": "DeconvDecoder", "out_channels": 3, "channels": [6, 4], "norm": False},
            "bottleneck": {"class": "Dense", "in_shape": [6, 7, 7], "latent": 5},
            "heads": {"digit": {"class": "Classifier", "in_shape": [5], "classes": 7, "hidden": 9}},
        },
    }


def test_the_bytes_are_a_function_of_the_model(tmp_path: Path) -> None:
    model = joint()
    save_weights(tmp_path / "a", model)
    save_weights(tmp_path / "b", model.to(memory_format=torch.channels_last))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_users_own_module_is_named_only() -> None:
    model = Autoencoder(nn.Flatten(), nn.Linear(4, 4))
    assert describe(model)["encoder"] == {"class": "torch.nn.modules.flatten.Flatten"}
    assert describe(model)["bottleneck"] == {"class": "Identity"}


def test_says_in_one_line_why_weights_do_not_load(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, joint(latent=5))
    with pytest.raises(InputError, match=r"can't load the weights in .*size mismatch for bottleneck.reduce") as error:
        load_weights(path, joint(latent=6))
    assert "\n" not in str(error.value)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="can't load the weights in"):
        load_weights(path, joint())
    with pytest.raises(InputError, match="no weights"):
        load_weights(tmp_path / "nowhere", joint())


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


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
