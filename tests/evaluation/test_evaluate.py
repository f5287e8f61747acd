"""Metrics of a model on a whole data set, against the definitions."""

import math

import pytest
import torch
from torch import Tensor, nn

from ae import (
    Autoencoder,
    Batch,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Gaussian,
    Images,
    InputError,
    Joint,
    Loss,
    Splits,
    evaluate,
)
from ae.data.corruptions import GaussianNoise
from tests.helpers.small import autoencoder


@pytest.fixture
def model() -> Autoencoder:
    return Autoencoder(ConvEncoder(3, (4, 6)), DeconvDecoder(3, (6, 4)), heads={"digit": Classifier((6, 3, 4), 3)})


@pytest.mark.parametrize("batch_size", [1, 6, 20, 256])
def test_evaluate_averages_over_images_for_any_batch_size(model: Autoencoder, noise: Images, batch_size: int) -> None:
    labels = noise.labels.clone()
    labels[:3] = -1
    images = Images(noise.pixels, labels, noise.classes)
    metrics = evaluate(model, images, Joint(), batch_size=batch_size)
    batch = images.batch(slice(None))
    output = model(batch.images)
    mse = (output.reconstruction - batch.images).square().mean((1, 2, 3))
    logits, labelled = output.predictions["digit"], labels >= 0
    is_correct = (logits.argmax(1) == labels)[labelled].float()
    expected = {
        "mse": mse.mean(),
        "psnr": (-10 * mse.log10()).mean(),
        "cross_entropy": nn.functional.cross_entropy(logits[labelled], labels[labelled]),
        "accuracy": is_correct.mean(),
        **{f"accuracy/{name}": is_correct[labels[labelled] == c].mean() for c, name in enumerate("abc")},
    }
    assert "ssim" not in metrics  # 9 rows are less than the window
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value.item(), rel=1e-5), name


def test_evaluate_loss_equals_the_objective_on_the_whole_set(model: Autoencoder, noise: Images) -> None:
    objective = Joint()
    whole = objective(model, noise.batch(slice(None)), 0).total.item()
    assert evaluate(model, noise, objective, batch_size=10)["loss"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("corruption", "passes"), [(None, 1), (GaussianNoise(0.1), 2)])
def test_evaluate_computes_the_code_once_for_metrics_and_objective(
    model: Autoencoder, noise: Images, corruption: GaussianNoise | None, passes: int
) -> None:
    """An objective that corrupts the images encodes others than the metrics do."""
    encoded: list[int] = []
    decoded: list[int] = []
    assert model.decoder is not None
    model.encoder.register_forward_pre_hook(lambda _, images: encoded.append(len(images[0])))
    model.decoder.register_forward_pre_hook(lambda _, features: decoded.append(len(features[0])))
    metrics = evaluate(model, noise, Joint(corruption=corruption), batch_size=len(noise))
    assert encoded == decoded == passes * [len(noise)]
    assert not {"encode", "decode_params"} & vars(model).keys()
    if corruption is None:
        assert metrics["loss"] == pytest.approx(Joint()(model, noise.batch(slice(None)), 0).total.item(), rel=1e-5)
        encode = model.encode
        model.encode = lambda images: encode(images)  # type: ignore[method-assign]  # a user's own
        own = model.encode
        evaluate(model, noise, Joint())
        assert model.encode is own


def test_evaluate_gives_an_objective_independent_codes(noise: Images) -> None:
    """Two codes of the same images differ, by position and by name; images changed in place are encoded again."""
    bottleneck = Gaussian((6, 3, 4), 5)
    model = Autoencoder(ConvEncoder(3, (4, 6)), DeconvDecoder(3, (6, 4)), bottleneck)
    distances: list[float] = []

    def objective(model: Autoencoder, batch: Batch, step: int) -> Loss:
        codes = [model.encode(batch.images), model.encode(batch.images), model.encode(batch.images)]
        codes.append(model.encode(images=batch.images))
        model.decode_params(z=codes[0].z, size=batch.images.shape[-2:])
        for i, code in enumerate(codes):
            distances.extend((code.z - other.z).abs().max().item() for other in codes[:i])
        batch.images.zero_()
        distances.append((model.encode(batch.images).mean - codes[0].mean).abs().max().item())
        return Loss(codes[0].z.sum(), {})

    evaluate(model, noise, objective, batch_size=len(noise))
    assert len(distances) == 7
    assert all(distances)


def test_evaluate_draws_the_same_noise_and_restores_the_generator(model: Autoencoder, noise: Images) -> None:
    def noisy(model: Autoencoder, batch: Batch, step: int) -> Loss:
        return Loss(torch.rand(()), {})

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = evaluate(model, noise, noisy)["loss"]
    assert torch.equal(torch.rand(3), expected)
    assert evaluate(model, noise, noisy)["loss"] == first


def test_evaluate_omits_metrics_that_do_not_apply(noise: Images) -> None:
    classifier = Autoencoder(ConvEncoder(3, (4,)), heads={"digit": Classifier((4, 5, 7), 3)})
    assert {"mse", "psnr"}.isdisjoint(evaluate(classifier, noise))
    autoencoder = Autoencoder(ConvEncoder(3, (4,)), DeconvDecoder(3, (4,)))
    assert set(evaluate(autoencoder, noise)) == {"mse", "psnr"}
    unlabelled = Images(noise.pixels, torch.full((20,), -1), noise.classes)
    assert evaluate(classifier, unlabelled) == {}


def test_evaluate_perfect_reconstruction_has_finite_psnr(noise: Images) -> None:
    class Logit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.logit()

    model = Autoencoder(nn.Sequential(nn.Identity()), Logit())
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    metrics = evaluate(model, noise)
    assert metrics["mse"] < 1e-12
    assert math.isfinite(metrics["psnr"])


def test_evaluate_measures_each_of_several_heads(digits: Splits) -> None:
    model, few = autoencoder(), digits.train.select(slice(32))
    model.heads["other"] = Classifier((6, 7, 7), 12)
    metrics = evaluate(model, few)
    assert {"digit/accuracy", "digit/cross_entropy", "other/accuracy", "other/accuracy/7"} <= set(metrics)
    assert "accuracy" not in metrics
    with torch.no_grad():
        right = model.eval()(few.batch(slice(None)).images).predictions["other"].argmax(1) == few.labels
    assert metrics["other/accuracy"] == pytest.approx(right.double().mean().item())


def test_evaluate_warns_once_of_several_heads_without_a_contract(
    digits: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    model, few = autoencoder(), digits.train.select(slice(32))
    model.heads["other"] = nn.Flatten()
    for _ in range(2):
        assert "digit/accuracy" in evaluate(model, few)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "no metrics of other: no head with metrics (ae.models.heads), or of a target that the data lack"


def test_evaluate_refuses_classes_without_a_logit(digits: Splits) -> None:
    model = autoencoder(classes=3)
    with pytest.raises(InputError, match="the head digit takes labels 0 to 2; there is a label 9"):
        evaluate(model, digits.train)


def test_evaluate_refuses_classes_without_a_logit_before_the_objective_reads_them(digits: Splits) -> None:
    model = Autoencoder(ConvEncoder(1, (4,)), heads={"digit": Classifier((4, 14, 14), 3)})

    def objective(model: Autoencoder, batch: Batch, step: int) -> Loss:
        raise AssertionError

    with pytest.raises(InputError, match="the head digit takes labels 0 to 2; there is a label 9"):
        evaluate(model, digits.train, objective)


def test_evaluate_loss_equals_the_total_of_the_whole_set(digits: Splits) -> None:
    few = digits.train.select(slice(32))
    labels = few.labels.clone()
    labels[3:16], labels[20:] = -1, -1
    images, model = few.relabelled(labels), autoencoder().eval()
    whole = Joint()(model, images.batch(slice(None)), 0).total.item()
    for batch_size in (1, 5, 16, 32):
        assert evaluate(model, images, Joint(), batch_size=batch_size)["loss"] == pytest.approx(whole, rel=1e-5)
    unlabelled = images.relabelled(torch.full_like(labels, -1))
    assert math.isfinite(evaluate(model, unlabelled, Joint(), batch_size=5)["loss"])
