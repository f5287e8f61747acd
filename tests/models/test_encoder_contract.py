"""Contract of encoders: features of any size of image, a mirrored decoder, and a file that builds it again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ae import (
    FSQ,
    Autoencoder,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    InputError,
    Joint,
    PyramidEncoder,
    Recipe,
    ResNetEncoder,
    SpatialGaussian,
    Splits,
    TimmEncoder,
    ViTEncoder,
    fit,
    load,
    save_weights,
    unchecked_range,
)
from experiments.networks import EncoderSettings
from tests.helpers.tiers import slow, slow_but


class Pyramid(nn.Module):
    """A backbone as of other libraries: a list of features, of which the first is the image."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(in_channels, 5, 3, 2, 1), nn.Conv2d(5, 7, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(x)
        return [x, first, self.second(first.relu())]


CASES: dict[str, Callable[[int], Any]] = {
    "conv": lambda c: ConvEncoder(c, (4, 6)),
    "conv-norm": lambda c: ConvEncoder(c, (4, 6), norm=True),
    "resnet": lambda c: ResNetEncoder(c, (4, 6, 8)),
    "resnet-pooled-attention": lambda c: ResNetEncoder(c, (4, 8), blocks=2, attention=True, downsampling="pooled"),
    "vit": lambda c: ViTEncoder(c, patch=4, width=8, depth=2, heads=2),
    "vit-learned": lambda c: ViTEncoder(c, patch=5, width=8, depth=1, heads=4, positions="learned", grid=(3, 4)),
    "pyramid": lambda c: PyramidEncoder(Pyramid(c), [(5, 2), (7, 4)], c),
    "timm": lambda c: TimmEncoder("test_resnet", c, levels=3),
}
SIZES = [(4, 4), (28, 28), (7, 65), (33, 31)]


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6)
@given(height=st.integers(4, 65), width=st.integers(4, 33), channels=st.integers(1, 4))
def test_encoder_and_mirror_take_any_size_and_channels(name: str, height: int, width: int, channels: int) -> None:
    encoder = CASES[name](channels).eval()
    model = Autoencoder(encoder, encoder.mirror(channels)).eval()
    images = torch.rand(2, channels, height, width)
    with torch.no_grad():
        stages = encoder.features(images)
        for features, stage in zip(stages, encoder.feature_info, strict=True):
            rows, columns = -(-height // stage.stride), -(-width // stage.stride)
            if features is stages[-1]:
                assert features.shape == (2, stage.channels, rows, columns)
            assert features.shape[1] == stage.channels
        assert stages[-1].shape[1:] == encoder.feature_shape(height, width)
        torch.testing.assert_close(encoder(images), stages[-1])
        assert model(images).reconstruction.shape == images.shape


@pytest.mark.parametrize("name", CASES)
def test_encoder_takes_an_empty_batch(name: str) -> None:
    encoder = CASES[name](1).eval()
    assert encoder(torch.rand(0, 1, 16, 16)).shape == (0, *encoder.feature_shape(16, 16))


@pytest.mark.parametrize("name", CASES)
def test_every_weight_of_encoder_and_mirror_is_trained(name: str) -> None:
    encoder = CASES[name](1)
    model = Autoencoder(encoder, encoder.mirror())
    model(torch.rand(4, 1, 16, 16)).reconstruction.square().sum().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == (["decoder.mask_token"] if name.startswith("vit") else [])


@pytest.mark.parametrize("name", CASES)
def test_encoder_is_saved_and_built_from_its_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = CASES[name](3)
    model = Autoencoder(encoder, encoder.mirror(3)).eval()
    save_weights(tmp_path / "model.safetensors", model, (3, 16, 16))
    own = {"encoder": CASES[name](3)} if name == "pyramid" else {}
    loaded = load(tmp_path / "model.safetensors", **own)
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images).mean, model(images).mean)


@pytest.mark.parametrize("name", slow_but("resnet vit", CASES))
@pytest.mark.parametrize("options", [{}, slow({"precision": "bf16", "micro_batch": 9, "checkpointing": True})])
def test_encoder_learns(name: str, options: dict[str, Any], digits: Splits) -> None:
    torch.manual_seed(0)
    encoder = CASES[name](1)
    head = Classifier(encoder.feature_shape(28, 28), 10, 16)
    model = Autoencoder(encoder, encoder.mirror(), heads={"digit": head})
    recipe = Recipe(steps=30, batch_size=32, optimizer="adamw", lr=0.01, **options)
    before = fit(model, Joint(), digits, Recipe(steps=1, batch_size=32, optimizer="adamw", lr=1e-9))
    after = fit(model, Joint(), digits, recipe)
    assert after["val/mse"] < 0.8 * before["val/mse"]
    assert after["val/loss"] < before["val/loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("unhooked")  # run-time checks divide the program
@pytest.mark.parametrize("name", CASES)
def test_encoder_is_compiled(name: str) -> None:
    torch.compiler.reset()
    encoder = CASES[name](1).eval()
    images = torch.rand(3, 1, 17, 20)
    with unchecked_range():  # as in training; the check would divide the program
        torch.testing.assert_close(torch.compile(encoder)(images), encoder(images), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("unhooked")
def test_encoder_refuses_other_images(name: str) -> None:
    encoder = CASES[name](3)
    for images, message in (
        (torch.rand(2, 1, 16, 16), r"images must be \[b 3 h w\], got \[2, 1, 16, 16\]"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "divide them by 255"),
        (torch.full((2, 3, 16, 16), 255.0), r"images must lie in \[0, 1\]"),
        ([torch.rand(2, 3, 16, 16)], "images must be a torch tensor .* got list"),
    ):
        with pytest.raises(InputError, match=message):
            encoder(images)
        with pytest.raises(InputError, match="features must be"):
            encoder.mirror(3)([torch.rand(2, 3, 4, 4)])


@pytest.mark.parametrize(
    ("settings", "kind", "shape"),
    [
        ({}, ConvEncoder, (64, 7, 7)),
        ({"channels": (4, 6, 8), "norm": True}, ConvEncoder, (8, 4, 4)),
        ({"encoder": "resnet", "depth": 2}, ResNetEncoder, (64, 7, 7)),
        ({"encoder": "vit", "channels": (8, 16), "depth": 1}, ViTEncoder, (16, 7, 7)),
        ({"encoder": "timm:test_resnet"}, TimmEncoder, (96, 1, 1)),
    ],
)
def test_settings_make_every_encoder(settings: dict[str, Any], kind: Any, shape: tuple[int, ...]) -> None:
    encoder = EncoderSettings(**settings).make_encoder((1, 28, 28))
    assert type(encoder) is kind
    assert encoder.feature_shape(28, 28) == shape
    assert isinstance(encoder.mirror(2), nn.Module)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"encoder": "vgg"},
            r"EncoderSettings\.encoder must be one of conv, resnet, vit, timm:NAME, .*, got 'vgg'",
        ),
        ({"encoder": "timm"}, "must be one of .*, got 'timm'"),
        ({"encoder": "vit:tiny"}, "must be one of .*, got 'vit:tiny'"),
        ({"depth": 2}, r"EncoderSettings\.depth is not read by the encoder conv: leave it out"),
    ],
)
def test_settings_refuse_unknown_encoders_and_unread_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EncoderSettings(**settings)


@pytest.mark.parametrize("name", ["resnet9", "hf-hub:user/model", "https://example.org/model", "../model", ""])
def test_timm_encoder_refuses_names_that_timm_does_not_know(name: str) -> None:
    with pytest.raises(InputError, match="timm has no model"):
        TimmEncoder(name)


def test_timm_encoder_of_a_file_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description with an address, or with pretrained weights, is refused or read without them."""
    encoder = TimmEncoder("test_resnet", levels=2)
    save_weights(tmp_path / "model.safetensors", Autoencoder(encoder), (1, 16, 16))
    encoder.pretrained = True
    save_weights(tmp_path / "pretrained.safetensors", Autoencoder(encoder), (1, 16, 16))
    encoder.pretrained, encoder.name = False, "hf-hub:user/model"
    save_weights(tmp_path / "address.safetensors", Autoencoder(encoder), (1, 16, 16))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", pytest.fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", pytest.fail)
    assert isinstance(load(tmp_path / "model.safetensors").encoder, TimmEncoder)
    with pytest.raises(InputError, match="timm has no model 'hf-hub:user/model'"):
        load(tmp_path / "address.safetensors")
    with pytest.raises(InputError, match="pretrained weights"):
        load(tmp_path / "pretrained.safetensors")


def test_timm_encoder_without_a_connection_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError("no connection\nto the server")

    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(InputError, match=r"^timm's resnet18 can't be an encoder: no connection to the server$"):
        TimmEncoder("resnet18", pretrained=True)


def test_timm_encoder_frozen_stays_as_it_is(digits: Splits) -> None:
    encoder = TimmEncoder("test_resnet", levels=2, frozen=True)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = Autoencoder(encoder, encoder.mirror())
    fit(model, Joint(classification=0.0), digits, Recipe(steps=3, batch_size=16, lr=0.1))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_timm_features_equal_those_of_the_backbone() -> None:
    encoder = TimmEncoder("test_resnet", 3, mean=0.2, std=0.4).eval()
    images = torch.rand(2, 3, 32, 64)
    expected = encoder.backbone((images - 0.2) / 0.4)
    for ours, theirs in zip(encoder.features(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    plain = timm.create_model("test_resnet", in_chans=3, features_only=True).eval()
    plain.load_state_dict(encoder.backbone.state_dict())
    torch.testing.assert_close(plain((images - 0.2) / 0.4)[-1], expected[-1])


def test_pyramid_refuses_features_that_are_not_as_declared() -> None:
    images = torch.rand(2, 1, 16, 16)
    for backbone, stages, message in (
        (nn.Conv2d(1, 5, 3), [(5, 2)], "the backbone must give a list of features, gave Tensor"),
        (Pyramid(1), [(6, 2), (7, 4)], r"must give features \[b 6 8 8\], gave \[2, 5, 8, 8\]"),
        (Pyramid(1), [(3, 1), (5, 2), (7, 4), (9, 8)], "must give features of 4 stages, gave 3"),
        (Pyramid(1), [(5, 2), (7, 8)], r"must give features \[b 7 2 2\], gave \[2, 7, 4, 4\]"),
    ):
        with pytest.raises(InputError, match=message):
            PyramidEncoder(backbone, stages)(images)
    with pytest.raises(InputError, match="can't follow a stride of 3"):
        PyramidEncoder(Pyramid(1), [(5, 3)]).mirror()


def test_features_in_a_list_are_refused_where_a_tensor_belongs() -> None:
    """A backbone of several resolutions, used as an encoder without `PyramidEncoder`."""
    for bottleneck in (None, Dense((7, 4, 4), 3), SpatialGaussian((7, 4, 4), 2), FSQ(7, (3, 3))):
        model = Autoencoder(Pyramid(1), DeconvDecoder(1, (7, 4)), bottleneck)
        with pytest.raises(InputError, match=r"a list of 3: PyramidEncoder"):
            model(torch.rand(2, 1, 16, 16))
