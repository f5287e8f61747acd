"""Files of weights: their description, loading, and rejected files."""

import copy
import json
import os
import pickle
import platform
import random
import struct
import time
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import nn

import ae
from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Dense, InputError, RunConfig, Splits
from ae.weights import describe, load, load_weights, read_metadata, save_weights
from tests.helpers import ROOT
from tests.helpers.tiers import slow
from tests.helpers.tracked import job
from tests.helpers.wandb_server import WandbServer

FILES = ROOT / "tests/files"


def joint(latent: int = 5) -> Autoencoder:
    encoder = ConvEncoder(3, (4, 6), norm=True, mean=[0.25, 0.5, 0.75])
    heads = {"digit": Classifier((latent,), 7, hidden=9)}
    return Autoencoder(encoder, DeconvDecoder(3, (6, 4)), Dense((6, 7, 7), latent), heads)


def are_equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The description


def test_save_weights_header_describes_modules(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, joint(), image=(3, 28, 28), classes=("a", "b"), metrics={"val/mse": 0.5})
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert list(header) == ["ae"]
    content = json.loads(header["ae"])
    assert content.pop("versions") == {
        "python": platform.python_version(),
        "ae": ae.__version__,
        "torch": version("torch"),
    }
    assert content == {
        "format": 3,
        "image": [3, 28, 28],
        "classes": ["a", "b"],
        "metrics": {"val/mse": 0.5},
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
            "bottleneck": {"class": "Dense", "in_shape": [6, 7, 7], "latent": 5, "prior": None},
            "heads": {"digit": {"class": "Classifier", "in_shape": [5], "classes": 7, "hidden": 9, "target": "label"}},
            "likelihood": {"class": "SquaredError"},
        },
    }
    about = read_metadata(path)
    assert (about.image, about.classes, about.metrics, about.format) == ((3, 28, 28), ("a", "b"), {"val/mse": 0.5}, 3)


def test_save_weights_is_deterministic(tmp_path: Path) -> None:
    model = joint()
    save_weights(tmp_path / "a", model)
    save_weights(tmp_path / "b", model.to(memory_format=torch.channels_last))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_describe_names_only_class_of_foreign_modules() -> None:
    model = Autoencoder(nn.Flatten(), nn.Linear(4, 4))
    assert describe(model)["encoder"] == {"class": "torch.nn.modules.flatten.Flatten"}
    assert describe(model)["bottleneck"] == {"class": "Identity"}


# Loading models


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("parts", ["all", "no decoder", "no head", "no bottleneck"])
def test_load_restores_model(tmp_path: Path, parts: str, norm: bool) -> None:
    encoder, decoder = ConvEncoder(1, (4, 6), norm, mean=0.1, std=0.3), DeconvDecoder(1, (6, 4), norm)
    latent = parts != "no bottleneck"
    model = Autoencoder(
        encoder,
        None if parts == "no decoder" else decoder,
        Dense((6, 7, 7), 5) if latent else None,
        {} if parts == "no head" else {"digit": Classifier((5,) if latent else (6, 7, 7), 7, hidden=9)},
    )
    images = torch.rand(4, 1, 28, 28)
    model(images)  # batch norm gathers statistics
    save_weights(tmp_path / "model.safetensors", model, (1, 28, 28))
    loaded = load(tmp_path / "model.safetensors")
    assert are_equal(loaded, model)
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert describe(loaded) == describe(model)
    out, expected = loaded(images), model.to(memory_format=torch.channels_last).eval()(images)
    assert torch.equal(out.code.z, expected.code.z)
    assert out.predictions.keys() == expected.predictions.keys()
    if model.decoder is not None:
        assert torch.equal(out.params, expected.params)


def test_load_takes_run_folder(digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", wandb="disabled"))
    model = load(tmp_path / "run")
    assert model.image_shape == (1, 28, 28)
    assert read_metadata(tmp_path / "run/model.safetensors").classes == tuple("0123456789")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert read_metadata(tmp_path / "run/best.safetensors").metrics["val/mse"] == summary["best/val/mse"]
    assert ae.evaluate(model, digits.test())["mse"] == pytest.approx(summary["test/mse"])  # type: ignore[misc]
    for part in (model.encoder, model.decoder, model.heads["digit"]):
        assert isinstance(part, nn.Module)
        assert are_equal(copy.deepcopy(part), part)
    (tmp_path / "run/model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"its training did not end; the best weights so far are in .*best.safetensors"
    ):
        load(tmp_path / "run")
    with pytest.raises(InputError, match=r"no model.safetensors in .*: it is no run"):
        load(tmp_path)


@pytest.mark.slow
def test_load_takes_artifact(server: WandbServer, digits: Splits, tmp_path: Path) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", project="p"))
    name = f"wandb:tester/p/model-{server.run.name}"
    assert are_equal(load(f"{name}:latest"), load(tmp_path / "run"))
    assert are_equal(load(f"{name}:best"), load(tmp_path / "run/best.safetensors"))
    wandb.teardown()
    with pytest.raises(InputError, match="can't load wandb:tester/p/nothing:latest"):
        load("wandb:tester/p/nothing:latest")
    for bad in ("wandb:p", "wandb:tester/p/model", "wandb:a/../b/c:d"):
        with pytest.raises(InputError, match="names no artifact"):
            load(bad)


def test_load_reads_format_1() -> None:
    """The file and the expected values are of version 0.1.0."""
    path = FILES / "format1.safetensors"
    assert (read_metadata(path).format, read_metadata(path).image) == (1, None)
    out = load(path)(torch.linspace(0, 1, 144).reshape(1, 1, 12, 12))
    expected = torch.tensor([[-0.3896750211715698, -0.35334521532058716, -0.49011796712875366]])
    torch.testing.assert_close(out.predictions["digit"], expected)
    assert out.reconstruction.mean().item() == pytest.approx(0.43340134620666504)


def test_load_rejects_newer_format(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda about: about.update(format=4))
    with pytest.raises(InputError, match="is of format 4, newer than this version of ae"):
        load(path)


class Custom(nn.Module):
    """A module that is not part of `ae`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 4, stride=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images)


def test_load_takes_foreign_modules(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = Autoencoder(
        Custom(6), DeconvDecoder(1, (6, 4)), heads={"own": nn.Flatten(), "digit": Classifier((6, 7, 7))}
    )
    save_weights(path, model)
    with pytest.raises(InputError, match=r"its encoder is of class .*Custom, not one of ae's: give it.*encoder=\.\.\."):
        load(path)
    with pytest.raises(InputError, match=r"its own is of class .*Flatten.* heads=\{'own': \.\.\.\}"):
        load(path, encoder=Custom(6))
    encoder = Custom(6)
    loaded = load(path, encoder=encoder, heads={"own": nn.Flatten()})
    assert loaded.encoder is encoder
    assert are_equal(loaded, model)
    with pytest.raises(InputError, match=r"misshapen: encoder.conv.weight is \[6, 1, 4, 4\].*must be \[7, 1, 4, 4\]"):
        load(path, encoder=Custom(7), heads={"own": nn.Flatten()})
    with pytest.raises(InputError, match="it has no head other, but digit, own"):
        load(path, encoder=Custom(6), heads={"other": nn.Flatten()})


# Loading weights into modules


def test_load_weights_reads_a_part(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", joint()
    save_weights(path, model)
    encoder = ConvEncoder(3, (4, 6), norm=True, mean=[0.25, 0.5, 0.75])
    load_weights(path, encoder, part="encoder")
    assert are_equal(encoder, model.encoder)
    head = Classifier((5,), 7, hidden=9)
    load_weights(path, head, part="heads.digit")
    assert are_equal(head, model.heads["digit"])
    conv = nn.Conv2d(3, 4, 3, padding=1)
    load_weights(path, nn.Sequential(OrderedDict(conv=conv, more=nn.Linear(1, 1))), "encoder.stages.0", strict=False)
    assert torch.equal(conv.weight, model.state_dict()["encoder.stages.0.conv.weight"])
    with pytest.raises(InputError, match=r"no weights of encoders in"):
        load_weights(path, encoder, part="encoders")
    with pytest.raises(InputError, match="no tensor has a name that the module knows"):
        load_weights(path, nn.Linear(1, 1), strict=False)


def test_load_weights_names_mismatches_and_keeps_module(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, joint(latent=5))
    other = Autoencoder(ConvEncoder(3, (4, 6)), DeconvDecoder(3, (6, 4)), Dense((6, 7, 7), 6), {"c": Classifier((6,))})
    before = copy.deepcopy(other)
    with pytest.raises(InputError) as error:
        load_weights(path, other)
    message = str(error.value)
    assert "missing: heads.c.fc1.weight" in message
    assert "unexpected: encoder.stages.0.norm" in message or "encoder.stages.0.norm.bias" in message
    assert "misshapen: bottleneck.project_in.weight is [5, 294] float32, must be [6, 294] float32" in message
    assert "\n" not in message
    assert are_equal(other, before)
    with pytest.raises(InputError, match="misshapen"):
        load_weights(path, other, strict=False)
    with pytest.raises(InputError, match=r"weight is .* float32, must be .* float64"):
        load_weights(path, joint().double())


# Rejected files


def rewritten(folder: Path, change: Any = lambda about: None, tensors: Any = lambda tensors: None) -> Path:
    """Write a file of weights with a changed description or changed tensors."""
    path = folder / "model.safetensors"
    save_weights(path, joint())
    state = load_tensors(path.read_bytes())
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["ae"])
    change(about)
    tensors(state)
    path.write_bytes(save(state, {"ae": json.dumps(about)}))
    return path


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no whole safetensors file"),
        (b"\x01", "is no whole safetensors file"),
        (struct.pack("<Q", 2**60) + b"{}", "is no whole safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "does not say what model it holds"),
        (struct.pack("<Q", 3) + b"{]}", "can't read"),
        (pickle.dumps(Malicious()), "is no whole safetensors file"),
        (save({"a": torch.zeros(1)}), "does not say what model it holds"),
        (save({"a": torch.zeros(1)}, {"ae": "[" * 100_000}), "can't read"),
        (save({"a": torch.zeros(1)}, {"ae": '{"format": "1", "model": {}}'}), "format or model is of the wrong kind"),
        (save({"a": torch.zeros(1)}, {"ae": '{"format": 1, "model": {"class": "os.system"}}'}), "holds no Autoencoder"),
    ],
)
def test_load_rejects_broken_and_malicious_files(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert not Path("executed").exists()


def test_load_rejects_missing_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights .*nowhere"):
        load(tmp_path / "nowhere")
    path = rewritten(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="can't read"):
        load(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a["model"]["encoder"].update(channels=[10**6] * 3), "misshapen: encoder.stages.0.conv.weight"),
        (lambda a: a["model"]["encoder"].update(channels=[10**12] * 3), "its encoder can't be built"),
        (lambda a: a["model"]["encoder"].update(channels=[4] * 2000), "an argument channels that can't be right"),
        (lambda a: a["model"]["encoder"].update(channels="ab"), "channels must be a sequence, .* got 'ab'"),
        (lambda a: a["model"]["encoder"].update(channels="a" * 101), "an argument channels that can't be right"),
        (lambda a: a["model"]["encoder"].update(channels=[]), "needs at least one stage"),
        (lambda a: a["model"]["encoder"].update(channels=[1.5]), "its encoder can't be built"),
        (lambda a: a["model"]["encoder"].update(color=1), "its encoder can't be built: .*color"),
        (lambda a: a["model"]["encoder"].update({"class": "Autoencoder"}), "not one of ae's"),
        (lambda a: a["model"].update(encoder=None), "does not describe its encoder"),
        (lambda a: a["model"].update(encoder="ConvEncoder"), "its encoder is not described as it should be"),
        (lambda a: a["model"].update(heads=[]), "its heads are not described as they should be"),
        (
            lambda a: a["model"]["heads"].update({"a.b": a["model"]["heads"]["digit"]}),
            "a head's name must be text without a dot",
        ),
        (lambda a: a["model"].pop("decoder"), "unexpected: decoder.stages.0.deconv.bias, decoder"),
    ],
)
def test_load_rejects_invalid_descriptions(tmp_path: Path, change: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load(rewritten(tmp_path, change))


def test_load_rejects_other_dtypes(tmp_path: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors["encoder.mean"] = tensors["encoder.mean"].half()

    with pytest.raises(InputError, match=r"encoder.mean is \[3, 1, 1\] float16, must be \[3, 1, 1\] float32"):
        load(rewritten(tmp_path, tensors=halve))


@pytest.mark.parametrize("count", [100, slow(2000)])
def test_load_rejects_or_loads_mutated_files(tmp_path: Path, count: int) -> None:
    """Change, delete, repeat and insert bytes, mostly in the header: load gives a model or one line of error."""
    whole = rewritten(tmp_path).read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    path, rng = tmp_path / "mutated.safetensors", random.Random(0)
    complaints = []
    for _ in range(count):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(header if rng.random() < 0.9 else len(content))
            match rng.randrange(4):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    del content[at : at + rng.choice([1, 2, 100])]
                case 2:
                    content[at:at] = content[at : at + rng.choice([1, 5, 50])]
                case 3:
                    content[at:at] = rng.choice([b"0", b"9", b"-", b'"', b"[", b"}", b"null", b"1e99", b"\\u0000"])
        path.write_bytes(content)
        try:
            assert isinstance(load(path), Autoencoder)
        except InputError as error:
            complaints.append(str(error))
    assert len(complaints) > count / 2
    assert not any("\n" in complaint for complaint in complaints)


def test_loaded_model_names_expected_image_shape(tmp_path: Path, unhooked: None) -> None:
    save_weights(tmp_path / "model.safetensors", joint(), image=(3, 28, 28))
    model = load(tmp_path / "model.safetensors")
    model(torch.rand(2, 3, 28, 28))
    expected = (
        r"trained on images \[b 3 28 28\], got \[2, 3, 32, 32\]: features must be \[b 6 7 7\], got \[2, 6, 8, 8\]"
    )
    with pytest.raises(InputError, match=expected):
        model(torch.rand(2, 3, 32, 32))
    with pytest.raises(InputError, match=r"trained on images \[b 3 28 28\], got \[2, 1, 28, 28\]"):
        model.encode(torch.rand(2, 1, 28, 28))
    with pytest.raises(InputError, match=r"images must lie in \[0, 1\], got 0 to 255"):
        model(torch.linspace(0, 255, 2352).reshape(1, 3, 28, 28))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.update(image=5), "image must be 3 values"),
        (lambda a: a.update(classes=[1]), "classes must be text, got 1"),
        (lambda a: a.update(metrics={"a": "b"}), "metrics is of the wrong kind"),
        (lambda a: a.update(versions=3), "versions is of the wrong kind"),
        (lambda a: a.update(format=True), "format or model is of the wrong kind"),
        (lambda a: a.update(tied=[["x", "y"]]), "weights x and y can't be shared"),
        (lambda a: a["model"]["encoder"].update(in_channels=2 * 10**8, mean=0.5, std=0.5), "misshapen: encoder.mean"),
        (lambda a: a["model"]["encoder"].update(in_channels=10**18, mean=0.5, std=0.5), "its encoder can't be built"),
    ],
)
def test_load_rejects_invalid_header_fields(tmp_path: Path, change: Any, complaint: str) -> None:
    path = rewritten(tmp_path, change)
    started = time.perf_counter()
    with pytest.raises(InputError, match=complaint) as error:
        load(path)
    assert time.perf_counter() - started < 5
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS: git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a page of HTML"),
        (b"PK\x03\x04abc", "a zip that is broken"),
        (pickle.dumps(Malicious()), "a pickle, which could run anything"),
        (b"\x1f\x8babc", "a compressed file"),
    ],
)
def test_load_names_kind_of_other_files(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=kind):
        load(tmp_path / "a")


def test_load_distinguishes_state_dict_from_training_state(tmp_path: Path) -> None:
    torch.save(joint().state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"what torch.save writes: load it with torch.load"):
        load(tmp_path / "a.pth")
    torch.save({"trained": {}, "position": {}}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="the state of a training: load the folder that it is in"):
        load(tmp_path / "state.pt")


def test_load_rejects_fifo_and_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path / "fifo", "a named pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(InputError, match=f"{path}: it must be a file, and is {kind}"):
            load(path)
