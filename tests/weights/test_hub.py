"""Models on the Hub: pushed to and loaded from a loopback server that speaks its protocol."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import ae
from ae import (
    FSQ,
    Autoencoder,
    Classifier,
    ConvEncoder,
    Data,
    DeconvDecoder,
    InputError,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
)
from ae.models.priors import PixelCNN
from experiments import joint
from tests.helpers.held import held
from tests.helpers.hub_server import TOKEN, HubServer, Repository
from tests.helpers.own_modules import OwnEncoder
from tests.helpers.shards import rows
from tests.helpers.tiers import slow


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A loopback Hub with a logged-in client and an empty cache."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
    assert not server.unknown


@pytest.fixture
def run(digits: Splits, tmp_path: Path) -> Path:
    """The folder of a small run of the joint experiment, with a report."""
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads={"digit": Classifier((8, 7, 7))})
    recipe = Recipe(steps=2, batch_size=32)
    config = joint.Config(model=joint.Model(channels=(4, 8)), data=Data("mnist", Path("idx")), recipe=recipe)
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled", project="secret"), config) as run:
        ae.report(model, digits, fit(model, Joint(), digits, recipe, run), run)
    return run.folder


def test_push_and_load_restore_the_model(hub: HubServer, run: Path) -> None:
    url = ae.push(run, "user/digits", license="mit")
    assert url == f"{hub.url}/user/digits"
    files = hub.files("user/digits")
    assert set(files) == {"README.md", "model.safetensors", "reconstructions.png", "code.png"}
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    images = torch.rand(3, 1, 28, 28)
    expected = ae.load(run)
    for path in ("hf:user/digits", "hf:user/digits@main"):
        model = ae.load(path)
        assert torch.equal(model(images).reconstruction, expected(images).reconstruction)
    encoder = ae.load_part("hf:user/digits", "encoder")
    assert torch.equal(encoder(images), expected.encoder(images))


def test_push_writes_a_card_without_places(hub: HubServer, run: Path) -> None:
    ae.push(run, "user/digits", license="mit")
    card = hub.files("user/digits")["README.md"].decode()
    header = huggingface_hub.ModelCard(card).data.to_dict()
    assert (header["library_name"], header["license"]) == ("ae", "mit")
    assert {"autoencoder", "joint"} <= set(header["tags"])
    for expected in (
        'encoder = ae.load_part("hf:user/digits", "encoder")',
        "images [b 1 28 28] in [0, 1]",
        "| `encoder` | `ConvEncoder(channels=[4, 8]",
        "| `heads.digit` | `Classifier(",
        "test/accuracy",
        "![Reconstructions](reconstructions.png)",
        "python -m experiments.joint",
        "steps: 2",
    ):
        assert expected in card, expected
    assert str(run.parent) not in card
    assert "wandb" not in card
    code = card.split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {"images": torch.rand(2, 1, 28, 28)}
    exec(code, scope)
    assert scope["features"].shape == (2, 8, 7, 7)


def test_load_uses_the_cache_offline(hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ae.push(run, "user/digits")
    first = ae.load("hf:user/digits")
    count = len([request for request in hub.requests if request.startswith("GET")])
    images = torch.ones(1, 1, 28, 28)
    assert torch.equal(ae.load("hf:user/digits").encoder(images), first.encoder(images))
    assert len([request for request in hub.requests if request.startswith("GET")]) == count  # the file is in the cache
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # refuses connections
    ae.load("hf:user/digits")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    ae.load("hf:user/digits")
    with pytest.raises(
        InputError, match=r"can't reach the Hub, and its cache does not have model\.safetensors of hf:u/x"
    ):
        ae.load("hf:u/x")


def test_push_updates_a_repository_and_old_revisions_stay_named(hub: HubServer, run: Path) -> None:
    ae.push(run, "user/digits", private=True)
    assert hub.repositories["models", "user/digits"].private
    model = ae.load(run)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    ae.save_weights(run / "model.safetensors", model, (1, 28, 28))
    ae.push(run, "user/digits")
    assert torch.equal(next(ae.load("hf:user/digits").parameters()), next(model.parameters()))
    with pytest.raises(InputError, match="no revision v9 of hf:user/digits"):
        ae.load("hf:user/digits@v9")


def test_push_includes_the_prior_of_a_quantizer(hub: HubServer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), FSQ(8, levels=(3, 3)))
    ae.save_weights(tmp_path / "model.safetensors", model, (1, 28, 28))
    ae.save_weights(tmp_path / "prior.safetensors", PixelCNN(9, channels=8))
    ae.push(tmp_path / "model.safetensors", "user/vq")
    assert torch.equal(ae.sample("hf:user/vq", 3, seed=5), ae.sample(tmp_path, 3, seed=5))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            lambda run: ae.load("hf:user"),
            r"hf:user names no repository: it must be hf:user/name, or hf:user/name@revision",
        ),
        (lambda run: ae.load("hf:user/none"), r"no repository hf:user/none on the Hub: a private one needs a token"),
        (lambda run: ae.load("hf:user/empty"), r"no model\.safetensors in hf:user/empty: it is no model of ae"),
        slow(lambda run: ae.push(run, "user"), r"user names no repository"),
        (lambda run: ae.push(run, "user/a@b"), r"without a revision"),
        (lambda run: ae.push(run.parent, "user/a"), r"no model\.safetensors in .*it is no run"),
    ],
)
def test_hub_errors_are_one_line(call: Any, complaint: str, hub: HubServer, run: Path) -> None:
    hub.repositories["models", "user/empty"] = Repository({"README.md": b"nothing"})
    with pytest.raises(InputError, match=complaint) as error:
        call(run)
    assert "\n" not in str(error.value)


def test_push_needs_a_token(hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match=r"the Hub refuses hf:user/digits: log in by `hf auth login`, or set HF_TOKEN"):
        ae.push(run, "user/digits")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # refuses connections
    with pytest.raises(InputError, match=r"can't push to hf:user/digits"):
        ae.push(run, "user/digits")


def test_load_part_needs_nothing_of_the_other_parts(tmp_path: Path) -> None:
    own = Autoencoder(OwnEncoder(), DeconvDecoder(1, (4,)), heads={"digit": Classifier((4, 14, 14))})
    ae.save_weights(tmp_path / "model.safetensors", own)
    images = torch.rand(2, 1, 28, 28)
    code = own.encoder(images)
    with pytest.raises(InputError, match=r"its encoder is of class .*OwnEncoder, not one of ae's: give it"):
        ae.load(tmp_path)
    decoder = ae.load_part(tmp_path, "decoder")
    assert own.decoder is not None
    torch.testing.assert_close(decoder(code), own.decoder.eval()(code))
    torch.testing.assert_close(ae.load_part(tmp_path, "heads.digit")(code), own.heads["digit"](code))
    torch.testing.assert_close(ae.load_part(tmp_path, "encoder", OwnEncoder())(images), code)
    with pytest.raises(InputError, match=r"OwnEncoder, not of ae: give it, as in load_part\(path, 'encoder', module\)"):
        ae.load_part(tmp_path, "encoder")
    for part in ("heads.letter", "prior", "encoder.conv"):
        with pytest.raises(InputError, match=f"has no part {part}: "):
            ae.load_part(tmp_path, part)


@pytest.mark.parametrize("stream", [slow(False), slow(True)])
def test_joint_trains_on_data_of_the_hub(hub: HubServer, digits: Splits, tmp_path: Path, stream: bool) -> None:
    train, files = held(digits.train).select(slice(60)), {}
    for i in range(2):
        rows(train).shard(2, i, contiguous=True).to_parquet(tmp_path / "part.parquet")
        files[f"data/train-{i:05}-of-00002.parquet"] = (tmp_path / "part.parquet").read_bytes()
    hub.repositories["datasets", "user/digits"] = Repository(files)
    command = "--data.name=hub --data.root=user/digits --data.validation=8 --recipe.steps=2 --recipe.batch-size=16"
    words = [
        sys.executable,
        "-m",
        "experiments.joint",
        *command.split(),
        "--run.wandb=disabled",
        "--model.channels=[4,8]",
    ]
    place = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(ae.__file__).parent.parent)}
    ended = subprocess.run(
        [*words, *(["--data.stream"] if stream else [])], env={**os.environ, **place}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "test/accuracy" in ended.stdout
