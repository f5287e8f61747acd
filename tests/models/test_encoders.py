from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ae import (
    Autoencoder,
    ConvEncoder,
    DenseDecoder,
    DenseEncoder,
    Gaussian,
    InputError,
    load,
    save_weights,
    unchecked_range,
)


class PlainCNN(nn.Module):
    """Plain CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.conv1((images - 0.5) / 0.5)), 2)
        return x, F.max_pool2d(F.relu(self.conv2(x)), 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)[1]
        return self.fc2(F.relu(self.fc1(x.view(-1, 64 * 7 * 7))))


def copy_encoder(plain: PlainCNN, encoder: ConvEncoder) -> None:
    for stage, conv in zip(encoder.stages, (plain.conv1, plain.conv2), strict=True):
        stage.get_submodule("conv").load_state_dict(conv.state_dict())


def test_conv_encoder_equals_plain_cnn() -> None:
    plain, encoder = PlainCNN(), ConvEncoder()
    copy_encoder(plain, encoder)
    images = torch.rand(5, 1, 28, 28)
    first, second = encoder.features(images)
    torch.testing.assert_close(first, plain.features(images)[0])
    torch.testing.assert_close(second, plain.features(images)[1])
    torch.testing.assert_close(encoder(images), second)
    assert second.shape == (5, 64, 7, 7)


def test_conv_encoder_declares_feature_shapes() -> None:
    encoder = ConvEncoder(in_channels=3, channels=(8, 16, 24))
    features = encoder.features(torch.rand(2, 3, 32, 32))
    assert [(f.shape[1], 32 // f.shape[2]) for f in features] == encoder.feature_info
    assert (encoder.out_channels, encoder.stride) == (24, 8)


@settings(max_examples=40)
@given(
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    in_channels=st.integers(1, 4),
    channels=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    norm=st.booleans(),
)
def test_conv_encoder_takes_any_size_channels_and_depth(
    height: int, width: int, in_channels: int, channels: list[int], norm: bool
) -> None:
    encoder = ConvEncoder(in_channels, channels, norm)
    features = encoder(torch.rand(2, in_channels, height, width))
    assert features.shape[1:] == encoder.feature_shape(height, width)


def test_conv_encoder_normalises_per_channel() -> None:
    plain, normalising = (
        ConvEncoder(3, (4,), mean=0.0, std=1.0),
        ConvEncoder(3, (4,), mean=[0.1, 0.2, 0.3], std=[2.0, 3.0, 4.0]),
    )
    normalising.stages.load_state_dict(plain.stages.state_dict())
    images = torch.rand(2, 3, 8, 8)
    by_hand = torch.stack([(images[:, c] - (0.1, 0.2, 0.3)[c]) / (2, 3, 4)[c] for c in range(3)], dim=1)
    with unchecked_range():
        torch.testing.assert_close(normalising(images), plain(by_hand))


def test_conv_encoder_batch_norm_precedes_pool() -> None:
    encoder = ConvEncoder(1, (4,), norm=True)
    conv, norm = encoder.stages[0].get_submodule("conv"), encoder.stages[0].get_submodule("norm")
    images = torch.rand(6, 1, 8, 8)
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.normal_(norm.weight)  # negative scales too: max pool and a negative scale don't commute
    expected = F.relu(F.max_pool2d(norm(conv((images - 0.5) / 0.5)), 2))
    torch.testing.assert_close(encoder(images), expected)


def test_conv_encoder_takes_an_empty_batch() -> None:
    assert ConvEncoder()(torch.rand(0, 1, 28, 28)).shape == (0, 64, 7, 7)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (torch.rand(1, 28, 28), r"must be \[b 1 h w\], got \[1, 28, 28\]"),
        (torch.rand(2, 3, 28, 28), r"must be \[b 1 h w\], got \[2, 3, 28, 28\]"),
        (torch.rand(2, 1, 0, 28), r"must be \[b 1 h w\], got \[2, 1, 0, 28\]"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), r"must be torch.float32 .* got torch.uint8: divide them by 255"),
        (torch.rand(2, 1, 28, 28).double(), "must be torch.float32 .* got torch.float64"),
        (torch.full((2, 1, 28, 28), 255.0), r"must lie in \[0, 1\], got 255 to 255"),
        (torch.full((2, 1, 28, 28), -1.0), r"must lie in \[0, 1\], got -1 to -1"),
        (torch.full((2, 1, 28, 28), torch.nan), r"must lie in \[0, 1\], got nan"),
    ],
)
def test_conv_encoder_rejects_wrong_shape_dtype_or_range(images: Tensor, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        ConvEncoder()(images)


def test_conv_encoder_skips_range_check_in_unchecked_range() -> None:
    encoder, images = ConvEncoder(), torch.full((2, 1, 28, 28), 2.0)
    with unchecked_range():
        encoder(images)
    with pytest.raises(InputError):
        encoder(images)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"channels": ()}, "at least one stage"),
        ({"channels": (32, 0)}, "channels must be positive, got 0"),
        ({"in_channels": 0}, "in_channels must be positive, got 0"),
        ({"std": 0.0}, "std must be positive"),
        ({"in_channels": 3, "mean": (0.5, 0.5)}, "one for each of 3 channels; got 2"),
    ],
)
def test_conv_encoder_rejects_invalid_arguments(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        ConvEncoder(**arguments)  # type: ignore[arg-type]


def test_dense_modules_equal_plain_layers(tmp_path: Path) -> None:
    encoder = DenseEncoder((3, 4, 5), (9, 7), mean=(0.1, 0.2, 0.3), std=0.5)
    images = torch.rand(6, 3, 4, 5)
    first, second = encoder.layers
    x = ((images - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 0.5).reshape(6, 60)
    torch.testing.assert_close(encoder(images), second(first(x).relu()).relu())
    assert encoder.feature_shape(4, 5) == (7,)
    decoder = DenseDecoder((3, 4, 5), (7, 9))
    features = torch.rand(6, 7)
    first, second = decoder.layers
    torch.testing.assert_close(decoder(features), second(first(features).relu()).reshape(6, 3, 4, 5))
    model = Autoencoder(encoder, decoder, Gaussian((7,), 2)).eval()
    save_weights(tmp_path / "a.safetensors", model)
    z = torch.randn(2, 2)
    assert torch.equal(load(tmp_path / "a.safetensors").decode(z), model.decode(z))


@pytest.mark.usefixtures("unhooked")
def test_dense_modules_reject_wrong_shapes() -> None:
    with pytest.raises(InputError, match=r"images must be \[b 1 28 28\], got \[2, 1, 28, 27\]"):
        DenseEncoder()(torch.rand(2, 1, 28, 27))
    with pytest.raises(InputError, match="must lie in"):
        DenseEncoder()(torch.rand(2, 1, 28, 28) * 255)
    with pytest.raises(InputError, match=r"features must be \[b 400\], got \[2, 300\]"):
        DenseDecoder()(torch.rand(2, 300))
    for make in (DenseEncoder, DenseDecoder):
        with pytest.raises(InputError, match="at least one layer"):
            make((1, 28, 28), ())
        with pytest.raises(InputError, match="widths must be positive, got 0"):
            make((1, 28, 28), (4, 0))
