"""Modules and training on a device against float64 on the CPU. The same tests run on the CPU and, marked, on CUDA."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ae import (
    FSQ,
    IWAE,
    Autoencoder,
    BernoulliLikelihood,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    DenseDecoder,
    DenseEncoder,
    Gaussian,
    GaussianLikelihood,
    HierarchicalGaussian,
    Identity,
    Images,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Segmenter,
    SpatialGaussian,
    Sphere,
    Splits,
    TopDownGaussian,
    VectorQuantizer,
    evaluate,
    fit,
    load,
    sample,
)
from ae.data import Batch
from ae.training.loop import Loop
from ae.utils.seeding import generator
from tests.helpers.tiers import slow

SHAPE = (6, 7, 7)
RECIPE = Recipe(steps=6, batch_size=16, lr=0.01, schedule="constant", evaluate_every=3)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device; products of matrices and convolutions on it in full float32."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


def conv(bottleneck: nn.Module, code: tuple[int, ...], **parts: Any) -> Autoencoder:
    heads = {"digit": Classifier(code), **parts.pop("heads", {})}
    return Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), bottleneck, heads, **parts)


def dense() -> Autoencoder:
    encoder, decoder = DenseEncoder((1, 28, 28), (16, 12)), DenseDecoder((1, 28, 28), (12, 16))
    bottleneck = HierarchicalGaussian((16, 12), (12,), TopDownGaussian((4, 3), hidden=8))
    return Autoencoder(encoder, decoder, bottleneck, likelihood=BernoulliLikelihood())


MODELS: dict[str, Callable[[], Autoencoder]] = {
    "identity": lambda: conv(Identity(), SHAPE),
    "dense": lambda: conv(Dense(SHAPE, 5), (5,), likelihood=GaussianLikelihood(learned=True)),
    "sphere": lambda: conv(Sphere(SHAPE, 5), (5,)),
    "gaussian": lambda: conv(Gaussian(SHAPE, 5), (5,), likelihood=BernoulliLikelihood()),
    "spatial-gaussian": lambda: conv(SpatialGaussian(SHAPE, 2), (2, 7, 7), likelihood=BernoulliLikelihood()),
    "hierarchical-gaussian": dense,
    "vector-quantizer": lambda: conv(VectorQuantizer(6, codebook_size=8, dead_code_threshold=0.0), SHAPE),
    "fsq": lambda: conv(FSQ(6, (3, 4)), (2, 7, 7)),
    "segmenter": lambda: conv(Identity(), SHAPE, heads={"mask": Segmenter((1, 4, 6), "mask", 3)}),
}


def batch_of(digits: Splits) -> Batch:
    some = digits.train.batch(slice(6))
    mask = torch.randint(-1, 3, (6, 28, 28), generator=generator("mask"))
    return Batch(some.images, {"label": some.labels, "mask": mask})


def moved(batch: Batch, device: str, dtype: torch.dtype) -> Batch:
    return Batch(batch.images.to(device, dtype), {name: target.to(device) for name, target in batch.targets.items()})


@pytest.mark.usefixtures("noiseless", "unhooked")
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_equal_float64(name: str, device: str, digits: Splits) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    if name == "vector-quantizer":
        model.bottleneck.initialized.fill_(True)  # type: ignore[operator]
    exact = copy.deepcopy(model).double()
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    beta = 1.0 if model.likelihood.in_nats else 0.0
    objective = Joint(reconstruction=1.0, beta=beta, classification=1.0 if len(model.heads) else 0.0)
    batch = batch_of(digits)
    expected = objective(exact, moved(batch, "cpu", torch.float64), 0)
    loss = objective(model, moved(batch, device, torch.float32), 0)
    torch.testing.assert_close(loss.total.cpu().double(), expected.total.double(), rtol=1e-4, atol=1e-4)
    expected.total.backward()
    loss.total.backward()
    for (key, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None, key
            largest = theirs.grad.abs().max().item()
            torch.testing.assert_close(ours.grad.cpu().double(), theirs.grad, rtol=0, atol=1e-3 * largest + 1e-6)


@pytest.fixture
def few(digits: Splits) -> Splits:
    return replace(digits, train=digits.train.select(slice(60)), validation=digits.train.select(slice(60, 100)))


def trained(few: Splits, run: Run | None = None, **options: Any) -> Autoencoder:
    torch.manual_seed(0)
    model = MODELS["gaussian"]()
    fit(model, Joint(reconstruction=1.0, beta=1.0), few, replace(RECIPE, **options), run)
    return model


@pytest.mark.parametrize(
    "options", [{}, slow({"micro_batch": 6}), slow({"checkpointing": True}), {"ema": 0.9}, slow({"grad_clip": 1.0})]
)
def test_fit_resumes_to_the_same_weights(options: dict[str, Any], device: str, few: Splits, tmp_path: Path) -> None:
    options = {**options, "device": device, "deterministic": True}
    whole = trained(few, **options)
    assert {parameter.device.type for parameter in whole.parameters()} == {device}
    for steps, where in ((3, {"dir": tmp_path / "run"}), (6, {"resume": tmp_path / "run"})):
        with Run("test", RunConfig(**where, wandb="disabled")) as run:  # type: ignore[arg-type]
            resumed = trained(few, run, steps=steps, **options)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert sample(tmp_path / "run", 3).shape == (3, 1, 28, 28)
    loaded = load(tmp_path / "run")
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "auto"}, {"optimizer": "adamw"}])
def test_fit_trains_on_the_device(options: dict[str, Any], device: str, few: Splits) -> None:
    before = MODELS["gaussian"]().state_dict()
    model = trained(few, device=device, **options)
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    metrics, exact = evaluate(model, few.validation), evaluate(copy.deepcopy(model).cpu(), few.validation)
    assert metrics["accuracy"] == pytest.approx(exact["accuracy"], abs=0.05)  # of 40 images
    assert metrics["mse"] == pytest.approx(exact["mse"], rel=0.05)  # another noise of the code


@pytest.fixture
def without_synchronisation() -> Iterator[Callable[[str], None]]:
    """Raise an error at every synchronisation with the device from now on; on the CPU there is none."""

    def forbid(device: str) -> None:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")

    yield forbid
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("objective", [Joint(reconstruction=1.0, beta=1.0), IWAE(2)])
@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"micro_batch": 8}, {"ema": 0.9}, {"grad_clip": 1.0}])
def test_step_does_not_wait_for_the_device(
    options: dict[str, Any],
    objective: Any,
    device: str,
    few: Splits,
    without_synchronisation: Callable[[str], None],
) -> None:
    recipe = replace(RECIPE, device=device, log_every=100, evaluate_every=100, **options)
    with Loop(MODELS["gaussian"](), objective, few, recipe) as loop:
        for batch in loop:
            if loop.step == 2:
                without_synchronisation(device)
            loop.train(batch)
            if loop.step == 4 and device == "cuda":  # the last step's row is read from the device
                torch.cuda.set_sync_debug_mode("default")
        assert loop.step == 6


def test_data_are_on_the_device(device: str, few: Splits) -> None:
    assert isinstance(few.train, Images)
    with Loop(MODELS["identity"](), Joint(), few, replace(RECIPE, device=device)) as loop:
        for batch in loop:
            assert batch.images.device.type == device
            assert batch.labels.device.type == device
            loop.train(batch)


@pytest.mark.slow
@pytest.mark.usefixtures("noiseless")  # compiled code draws its own noise
def test_compiled_equals_eager_on_the_device(device: str, few: Splits) -> None:
    torch.compiler.reset()
    eager, compiled = (trained(few, device=device, lr=1e-3, compile=flag) for flag in (False, True))
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
