import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Dense, InputError
from tests.models.test_decoders import PlainDeconv, copy_decoder
from tests.models.test_encoders import PlainCNN, copy_encoder


def joint() -> Autoencoder:
    return Autoencoder(ConvEncoder(), DeconvDecoder(), heads={"digit": Classifier((64, 7, 7))})


def test_autoencoder_equals_plain_networks() -> None:
    cnn, deconv, model = PlainCNN(), PlainDeconv(output_padding=1), joint()
    copy_encoder(cnn, model.encoder)  # type: ignore[arg-type]
    copy_decoder(deconv, model.decoder)  # type: ignore[arg-type]
    head = model.heads["digit"]
    head.get_submodule("fc1").load_state_dict(cnn.fc1.state_dict())
    head.get_submodule("fc2").load_state_dict(cnn.fc2.state_dict())
    images = torch.rand(5, 1, 28, 28)
    output = model(images)
    features = cnn.features(images)[1]
    torch.testing.assert_close(output.code.z, features)
    torch.testing.assert_close(output.predictions["digit"], cnn(images))
    torch.testing.assert_close(output.params, deconv(features))
    torch.testing.assert_close(output.reconstruction, torch.sigmoid(deconv(features)))


@settings(max_examples=60)
@given(
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    in_channels=st.integers(1, 4),
    channels=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    latent=st.one_of(st.none(), st.integers(1, 7)),
)
def test_autoencoder_reconstructions_have_image_size(
    height: int, width: int, in_channels: int, channels: list[int], latent: int | None
) -> None:
    encoder = ConvEncoder(in_channels, channels)
    bottleneck = Dense(encoder.feature_shape(height, width), latent) if latent else None
    model = Autoencoder(encoder, DeconvDecoder(in_channels, channels[::-1]), bottleneck)
    images = torch.rand(2, in_channels, height, width)
    output = model(images)
    assert output.reconstruction.shape == images.shape
    assert model.decode(output.code.z, (height, width)).shape == images.shape


def test_autoencoder_forward_is_encode_decode_and_classify() -> None:
    model, images = joint(), torch.rand(3, 1, 28, 28)
    output, code = model(images), model.encode(images)
    assert torch.equal(output.code.z, code.z)
    assert torch.equal(output.reconstruction, model.decode(code.z))
    assert torch.equal(output.predictions["digit"], model.predict(code)["digit"])


def test_autoencoder_decode_generates() -> None:
    model = Autoencoder(ConvEncoder(), DeconvDecoder(), Dense((64, 7, 7), 16))
    images = model.decode(torch.randn(4, 16))
    assert images.shape == (4, 1, 28, 28)
    assert images.min() >= 0
    assert images.max() <= 1


def test_autoencoder_without_decoder_is_a_classifier() -> None:
    model = Autoencoder(ConvEncoder(), heads={"digit": Classifier((64, 7, 7))})
    output = model(torch.rand(2, 1, 28, 28))
    assert output.params is None
    assert output.predictions["digit"].shape == (2, 10)
    for ask in (lambda: output.reconstruction, lambda: model.decode(output.code.z)):
        with pytest.raises(InputError, match="no decoder"):
            ask()


def test_autoencoder_takes_any_module() -> None:
    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    model = Autoencoder(Flat(), nn.Sequential(nn.Linear(60, 60), nn.Unflatten(1, (1, 6, 10))))
    assert model(torch.rand(2, 1, 6, 10)).reconstruction.shape == (2, 1, 6, 10)


def test_autoencoder_rejects_small_decoder_output() -> None:
    model = Autoencoder(ConvEncoder(), PlainDeconv(output_padding=0))
    with pytest.raises(InputError, match=r"gives \[25, 25\] pixels, fewer than the image's \[28, 28\]"):
        model(torch.rand(1, 1, 28, 28))


def test_autoencoder_copies_and_state_dicts_are_complete() -> None:
    model, images = joint(), torch.rand(2, 1, 28, 28)
    other = joint()
    other.load_state_dict(model.state_dict())
    for same in (copy.deepcopy(model), other):
        assert torch.equal(same(images).reconstruction, model(images).reconstruction)
