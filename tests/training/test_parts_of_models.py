"""Every bottleneck, prior and likelihood: trained in parts, in bf16 and compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ae import (
    FSQ,
    Autoencoder,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    DiscretizedLogisticLikelihood,
    Gaussian,
    GaussianLikelihood,
    GaussianMixture,
    HierarchicalGaussian,
    Identity,
    Images,
    Joint,
    Recipe,
    SpatialGaussian,
    Sphere,
    Splits,
    SquaredError,
    TopDownGaussian,
    TopK,
    VectorQuantizer,
    fit,
)
from ae.utils.seeding import generator
from tests.helpers.resumed import check_resume
from tests.helpers.tiers import slow_but

SHAPE = (6, 3, 3)


def quantizer() -> VectorQuantizer:
    """A quantizer whose codebook neither starts from random vectors of a batch nor replaces codes by them."""
    bottleneck = VectorQuantizer(6, codebook_size=5, dead_code_threshold=0.0)
    bottleneck.initialized.fill_(True)
    return bottleneck


BOTTLENECKS: dict[str, Callable[[], nn.Module]] = {
    "identity": Identity,
    "dense": lambda: Dense(SHAPE, 5),
    "sphere": lambda: Sphere(SHAPE, 5),
    "top-k": lambda: TopK(SHAPE, 9, 2),
    "gaussian": lambda: Gaussian(SHAPE, 5),
    "mixture-prior": lambda: Gaussian(SHAPE, 5, GaussianMixture(5, 3)),
    "hierarchical-gaussian": lambda: HierarchicalGaussian((144, 54), SHAPE, TopDownGaussian((4, 3), hidden=8)),
    "spatial-gaussian": lambda: SpatialGaussian(SHAPE, 2),
    "vector-quantizer": quantizer,
    "fsq": lambda: FSQ(6, (3, 4)),
}
LIKELIHOODS: dict[str, Callable[[], Any]] = {
    "squared-error": SquaredError,
    "bernoulli": BernoulliLikelihood,
    "gaussian": lambda: GaussianLikelihood(0.5),
    "learned-gaussian": lambda: GaussianLikelihood(learned=True),
    "discretized-logistic": DiscretizedLogisticLikelihood,
    "categorical": lambda: CategoricalLikelihood(8),
}
PAIRS = [(name, "bernoulli") for name in BOTTLENECKS] + [("gaussian", name) for name in LIKELIHOODS]


def trained(bottleneck: str, likelihood: str, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights before and after two steps, on batches of 10 and 5 images."""
    torch.manual_seed(0)
    made, code = LIKELIHOODS[likelihood](), BOTTLENECKS[bottleneck]()
    model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(made.channels(1), (6, 4)), code, likelihood=made)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels = torch.randint(0, 256, (15, 1, 12, 12), dtype=torch.uint8, generator=generator("parts"))
    beta = 1.0 if made.in_nats else 0.0
    objective = Joint(reconstruction=1.0, beta=beta, classification=0.0)
    recipe = Recipe(steps=2, batch_size=10, lr=1e-4, momentum=0.0, schedule="constant", **options)
    fit(model, objective, Splits(Images(pixels, torch.full((15,), -1), ())), recipe)
    return before, model.state_dict()


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize(("bottleneck", "likelihood"), [pair for pair in PAIRS if pair[0] != "top-k"])  # batch norm
def test_model_trained_in_parts_equals_the_whole_batch(bottleneck: str, likelihood: str) -> None:
    _, whole = trained(bottleneck, likelihood)
    _, parts = trained(bottleneck, likelihood, micro_batch=4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("bottleneck", "likelihood"), PAIRS)
def test_model_trains_in_bf16_with_float32_weights(bottleneck: str, likelihood: str) -> None:
    before, after = trained(bottleneck, likelihood, precision="bf16")
    assert all(value.dtype == before[name].dtype for name, value in after.items())
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


# each bottleneck and each likelihood once
COMPILED = [
    ("mixture-prior", "discretized-logistic"),
    ("spatial-gaussian", "learned-gaussian"),
    ("hierarchical-gaussian", "bernoulli"),
    ("vector-quantizer", "categorical"),
    ("fsq", "gaussian"),
    ("identity", "squared-error"),
    ("dense", "bernoulli"),
    ("sphere", "bernoulli"),
    ("top-k", "bernoulli"),
    ("gaussian", "bernoulli"),
]


@pytest.mark.slow
@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize(("bottleneck", "likelihood"), COMPILED)
def test_model_trained_compiled_equals_eager(bottleneck: str, likelihood: str) -> None:
    torch.compiler.reset()
    _, eager = trained(bottleneck, likelihood)
    _, compiled = trained(bottleneck, likelihood, compile=True)
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-4, rtol=1e-3)


def test_compiled_cases_have_every_bottleneck_and_likelihood() -> None:
    assert {bottleneck for bottleneck, _ in COMPILED} == BOTTLENECKS.keys()
    assert {likelihood for _, likelihood in COMPILED} == LIKELIHOODS.keys()


@pytest.mark.parametrize("likelihood", slow_but("learned-gaussian", LIKELIHOODS))
def test_likelihood_resume_equals_uninterrupted_training(likelihood: str, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (60, 1, 12, 12), dtype=torch.uint8, generator=generator("resumed"))
    data = Splits(Images(pixels, torch.full((60,), -1), ()), Images(pixels[:20], torch.full((20,), -1), ()))

    def make() -> tuple[Autoencoder, Joint]:
        torch.manual_seed(0)
        made = LIKELIHOODS[likelihood]()
        model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(made.channels(1), (6, 4)), likelihood=made)
        return model, Joint(reconstruction=1.0, classification=0.0)

    check_resume(make, data, tmp_path)
