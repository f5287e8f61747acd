import math

import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from ae import Autoencoder, Batch, Classifier, ConvEncoder, DeconvDecoder, Images, Joint, Loss, evaluate
from ae.evaluation.inference import evaluating
from ae.evaluation.metrics import psnr, ssim


@pytest.fixture
def model() -> Autoencoder:
    return Autoencoder(ConvEncoder(3, (4, 6)), DeconvDecoder(3, (6, 4)), heads={"digit": Classifier((6, 3, 4), 3)})


def reference_ssim(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004, equation 13, written with scipy: Gaussian window of 11x11, sigma 1.5, whole windows only."""

    def blur(x: Tensor) -> Tensor:
        return torch.from_numpy(ndimage.gaussian_filter(x.double().numpy(), 1.5, truncate=5 / 1.5))[5:-5, 5:-5]

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean().item()


@pytest.mark.parametrize("size", [(11, 11), (12, 17), (28, 28)])
def test_ssim_equals_the_papers_equation(size: tuple[int, int]) -> None:
    a, b = torch.rand(3, 1, *size), torch.rand(3, 1, *size)
    b[0] = a[0]
    expected = [reference_ssim(x[0], y[0]) for x, y in zip(a, b, strict=True)]
    assert expected[0] == pytest.approx(1)
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-4)


def test_psnr_in_decibels() -> None:
    assert psnr(torch.tensor([1.0, 0.1, 0.001, 0.0])).tolist() == pytest.approx([0, 10, 30, 100])


@pytest.mark.parametrize("batch_size", [1, 6, 20, 256])
def test_are_means_over_images_whatever_the_batch_size(model: Autoencoder, noise: Images, batch_size: int) -> None:
    labels = noise.labels.clone()
    labels[:3] = -1
    images = Images(noise.pixels, labels, noise.classes)
    metrics = evaluate(model, images, Joint(), batch_size=batch_size)
    batch = images.batch(slice(None))
    output = model(batch.images)
    mse = (output.reconstruction - batch.images).square().mean((1, 2, 3))
    logits, kept = output.logits["digit"], labels >= 0
    right = (logits.argmax(1) == labels)[kept].float()
    expected = {
        "mse": mse.mean(),
        "psnr": (-10 * mse.log10()).mean(),
        "cross_entropy": nn.functional.cross_entropy(logits[kept], labels[kept]),
        "accuracy": right.mean(),
        **{f"accuracy/{name}": right[labels[kept] == c].mean() for c, name in enumerate("abc")},
    }
    assert "ssim" not in metrics  # 9 rows are too few
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value.item(), rel=1e-5), name


def test_the_loss_is_the_objectives(model: Autoencoder, noise: Images) -> None:
    objective = Joint()
    whole = objective(model, noise.batch(slice(None)), 0).total.item()
    assert evaluate(model, noise, objective, batch_size=10)["loss"] == pytest.approx(whole, rel=1e-5)


def test_noise_is_the_same_at_every_call_and_leaves_no_trace(model: Autoencoder, noise: Images) -> None:
    def noisy(model: Autoencoder, batch: Batch, step: int) -> Loss:
        return Loss(torch.rand(()), {})

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = evaluate(model, noise, noisy)["loss"]
    assert torch.equal(torch.rand(3), expected)
    assert evaluate(model, noise, noisy)["loss"] == first


def test_reports_what_applies(noise: Images) -> None:
    classifier = Autoencoder(ConvEncoder(3, (4,)), heads={"digit": Classifier((4, 5, 7), 3)})
    assert {"mse", "psnr"}.isdisjoint(evaluate(classifier, noise))
    autoencoder = Autoencoder(ConvEncoder(3, (4,)), DeconvDecoder(3, (4,)))
    assert set(evaluate(autoencoder, noise)) == {"mse", "psnr"}
    unlabelled = Images(noise.pixels, torch.full((20,), -1), noise.classes)
    assert evaluate(classifier, unlabelled) == {}


def test_a_perfect_reconstruction_is_finite(noise: Images) -> None:
    class Logit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.logit()

    model = Autoencoder(nn.Sequential(nn.Identity()), Logit())
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    metrics = evaluate(model, noise)
    assert metrics["mse"] < 1e-12
    assert math.isfinite(metrics["psnr"])


def test_evaluating_gives_every_module_its_mode_back(model: Autoencoder) -> None:
    model.train()
    model.encoder.eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
