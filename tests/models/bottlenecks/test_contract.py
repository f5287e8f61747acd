"""The contract of all bottlenecks. A new bottleneck is a line in CASES."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ae import (
    FSQ,
    Autoencoder,
    Classifier,
    Code,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    Gaussian,
    Identity,
    Images,
    InputError,
    Joint,
    Sphere,
    Splits,
    TopK,
    VectorQuantizer,
    load,
)
from ae.models.bottlenecks import HierarchicalGaussian, SpatialGaussian
from ae.models.likelihoods import BernoulliLikelihood
from ae.models.priors import GaussianMixture, TopDownGaussian
from ae.weights import save_weights
from tests.helpers.resumed import check_resume
from tests.helpers.tiers import slow_but
from tests.models.bottlenecks import SHAPE

torch.manual_seed(0)  # of the weights of CASES
CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "identity": (Identity(), SHAPE),
    "dense": (Dense(SHAPE, 5), (5,)),
    "sphere": (Sphere(SHAPE, 5), (5,)),
    "top-k": (TopK(SHAPE, 9, 2), (9,)),
    "gaussian": (Gaussian(SHAPE, 5), (5,)),
    "gaussian-mixture-prior": (Gaussian(SHAPE, 5, GaussianMixture(5, 3)), (5,)),
    "hierarchical-gaussian": (HierarchicalGaussian((432, 72), SHAPE, TopDownGaussian((3, 2), hidden=4)), (5,)),
    "spatial-gaussian": (SpatialGaussian(SHAPE, 2), (2, 3, 4)),
    "vector-quantizer": (VectorQuantizer(6, codebook_size=8), SHAPE),
    "fsq": (FSQ(6, (3, 4)), (2, 3, 4)),
}
PLAIN = ("identity", "dense", "sphere", "top-k", "fsq")


def run(bottleneck: nn.Module, features: Tensor) -> Code:
    """The code of the features of the last stage, which the stage before repeats."""
    stages = [features, features.repeat(1, 6, 1, 1), features]
    return bottleneck(stages if getattr(bottleneck, "reads_stages", False) else features)


class Stages(nn.Module):
    """An encoder that gives its input as the features of two stages."""

    def forward(self, features: Tensor) -> Tensor:
        return features

    def features(self, features: Tensor) -> list[Tensor]:
        return [features.repeat(1, 6, 1, 1), features]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, ...]]:
    bottleneck, code_shape = CASES[request.param]
    return copy.deepcopy(bottleneck), code_shape


@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize("training", [True, False])
def test_bottleneck_code_shapes(case: tuple[nn.Module, tuple[int, ...]], batch: int, training: bool) -> None:
    bottleneck, code_shape = case
    code = run(bottleneck.train(training), torch.rand(batch, *SHAPE))
    assert code.z.shape == code.mean.shape == (batch, *code_shape)
    assert all(values.shape == (batch,) for values in (code.rate, *code.aux.values()))
    assert bottleneck.expand(code.z).shape == (batch, *SHAPE)  # type: ignore[operator]
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in code.stats.values())


def test_bottleneck_gradients_reach_features_and_parameters(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    features = torch.rand(7, *SHAPE, requires_grad=True)
    code = run(bottleneck, features)
    expanded = bottleneck.expand(code.z)  # type: ignore[operator]
    (expanded.square().sum() + code.rate.sum() + sum(each.sum() for each in code.aux.values())).backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bottleneck.parameters())


def test_bottleneck_evaluation_keeps_state(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    run(bottleneck, torch.rand(7, *SHAPE))
    before = copy.deepcopy(bottleneck.state_dict())
    run(bottleneck.eval(), torch.rand(7, *SHAPE))
    assert all(torch.equal(tensor, before[name]) for name, tensor in bottleneck.state_dict().items())


def test_bottleneck_code_is_seeded_and_mean_is_deterministic(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    bottleneck, _ = case
    features, codes = torch.rand(7, *SHAPE), []
    run(bottleneck, features)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        codes.append(run(bottleneck.eval(), features))
    assert torch.equal(codes[0].z, codes[1].z)
    assert torch.equal(codes[0].mean, codes[2].mean)


def test_bottleneck_save_and_load(case: tuple[nn.Module, tuple[int, ...]], tmp_path: Path) -> None:
    bottleneck, code_shape = case
    run(bottleneck, torch.rand(7, *SHAPE))
    model = Autoencoder(Stages(), None, bottleneck, {"a": Classifier(code_shape, 3, 4)})
    save_weights(tmp_path / "model.safetensors", model)
    loaded = load(tmp_path / "model.safetensors", encoder=Stages())
    model.to(memory_format=torch.channels_last)  # as loaded
    features = torch.rand(4, *SHAPE)
    assert torch.equal(loaded.eval().encode(features).mean, model.eval().encode(features).mean)


@pytest.mark.parametrize("case", slow_but("gaussian vector-quantizer", CASES), indirect=True)
def test_bottleneck_resume_equals_uninterrupted_training(
    case: tuple[nn.Module, tuple[int, ...]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(256, (60, 1, 12, 16), dtype=torch.uint8)
    data = Splits(Images(pixels, torch.zeros(60).long(), ("a",)), Images(pixels[:20], torch.zeros(20).long(), ("a",)))
    joint = Joint(reconstruction=1.0, beta=1.0, classification=0.0)

    def make() -> tuple[Autoencoder, Joint]:
        torch.manual_seed(1)
        bottleneck = copy.deepcopy(case[0]).train()
        for part in bottleneck.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.reset_parameters()
        model = Autoencoder(
            ConvEncoder(1, (9, 6)), DeconvDecoder(1, (6, 4)), bottleneck, likelihood=BernoulliLikelihood()
        )
        return model, joint

    check_resume(make, data, tmp_path)


@pytest.mark.parametrize("name", PLAIN)
def test_deterministic_bottlenecks_have_no_rate_auxiliary_loss_or_noise(name: str) -> None:
    code = CASES[name][0](torch.rand(7, *SHAPE))
    assert code.z is code.mean
    assert not code.rate.any()
    assert not code.aux
    assert code.posterior is None


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: VectorQuantizer(6, decay=1.0), "decay must be from 0 to less than 1, got 1.0"),
        (lambda: FSQ(6, (1, 4)), "levels must be 2 or more, got 1"),
        (lambda: VectorQuantizer(6)(torch.rand(2, 5, 3, 4)), r"must be \[b 6 h w\] or \[b n 6\], got \[2, 5, 3, 4\]"),
        (lambda: FSQ(6)(torch.rand(2, 5, 3, 4)), r"must be \[b 6 h w\] or \[b n 6\], got \[2, 5, 3, 4\]"),
        (lambda: Gaussian(SHAPE, 0), "latent must be positive, got 0"),
    ],
)
def test_bottleneck_rejects_invalid_input(make: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["sphere", "top-k", "vector-quantizer", "fsq"])
def test_bottleneck_project_is_idempotent_and_valid(name: str) -> None:
    bottleneck = copy.deepcopy(CASES[name][0])
    bottleneck(torch.rand(7, *SHAPE))
    z = bottleneck.eval()(torch.rand(7, *SHAPE)).z.detach()
    torch.testing.assert_close(bottleneck.project(z), z)  # type: ignore[operator]
    projected = bottleneck.project(z + torch.randn_like(z))  # type: ignore[operator]
    torch.testing.assert_close(bottleneck.project(projected), projected)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["vector-quantizer", "fsq"])
def test_quantizer_lookup_inverts_indices(name: str) -> None:
    quantizer: Any = copy.deepcopy(CASES[name][0]).eval()
    code = quantizer(torch.randn(5, *SHAPE))
    assert code.indices is not None
    assert code.indices.shape == (5, *SHAPE[1:])
    torch.testing.assert_close(quantizer.lookup(code.indices), code.z)
    assert torch.equal(quantizer.indices(code.z), code.indices)
    every = torch.arange(quantizer.codebook_size)[:, None, None]
    assert torch.equal(quantizer.indices(quantizer.lookup(every)), every)
