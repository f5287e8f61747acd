"""The contract of all objectives."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ae import (
    IWAE,
    MMD,
    Augment,
    Autoencoder,
    Batch,
    BetaTC,
    Classifier,
    Consistency,
    Contractive,
    ConvEncoder,
    DeconvDecoder,
    Gaussian,
    Joint,
    Ladder,
    Loss,
    Recipe,
    Splits,
    TeacherConfig,
    UncertaintyWeighting,
    fit,
)
from ae.data.corruptions import GaussianNoise
from ae.functional import bernoulli_nll
from ae.models.likelihoods import BernoulliLikelihood
from ae.objectives import corruption_of
from ae.training.step import Objective, Step
from tests.helpers.resumed import Modules, check_resume
from tests.helpers.tiers import slow_but

ELBO = Joint(reconstruction=1.0, beta=1.0)
NATS = Joint(reconstruction=1.0)
SHIFTED = TeacherConfig(weak=Augment(shift=1), strong=Augment(shift=2, elastic=0.5), confidence=0.0)


@dataclass(frozen=True)
class Case:
    """An objective for images 28x28, and whether its loss reads labels and reconstructions."""

    make: Callable[[Autoencoder], Objective]
    classifies: bool = True
    decodes: bool = True
    recipe: dict[str, Any] = field(default_factory=dict)  # settings that the objective needs
    without: tuple[Callable[[Autoencoder], Objective], Callable[[Autoencoder], Objective]] | None = None


CASES = {
    "joint": Case(
        lambda _: ELBO,
        without=(lambda _: Joint(reconstruction=1.0, beta=0.0, aux=0.0, classification=0.0), lambda _: nll),
    ),
    "denoising": Case(lambda _: replace(NATS, corruption=GaussianNoise(0.3))),
    "learned": Case(lambda _: UncertaintyWeighting(NATS)),
    "iwae": Case(lambda _: IWAE(3), classifies=False),
    "beta-tc": Case(lambda _: BetaTC(images=100, joint=NATS)),
    "mmd": Case(lambda _: MMD(joint=NATS), without=(lambda _: MMD(0.0, NATS), lambda _: NATS)),
    "contractive": Case(
        lambda _: Contractive(joint=NATS), without=(lambda _: Contractive(0.0, joint=NATS), lambda _: NATS)
    ),
    "pseudo-labels": Case(
        lambda model: Consistency(model, 10, NATS, SHIFTED),
        recipe={"ema": 0.9},
        without=(
            lambda model: Consistency(model, 10, NATS, TeacherConfig(weight=0.0, weak=Augment())),
            lambda _: NATS,
        ),
    ),
    "mean-teacher": Case(
        lambda model: Consistency(model, 10, NATS, replace(SHIFTED, method="mean-teacher")), recipe={"ema": 0.9}
    ),
    "ladder": Case(
        lambda model: Ladder(model, 28, 28, (1.0,) * 5),
        decodes=False,
        without=(
            lambda model: Ladder(model, 28, 28, (0.0,) * 5, noise=1e-9),
            lambda _: Joint(reconstruction=0.0),
        ),
    ),
}


def nll(model: Autoencoder, batch: Batch, step: int) -> Loss:
    """The negative log-likelihood of `Joint`, computed directly."""
    code = model.encode(batch.images)
    value = bernoulli_nll(model.decode_params(code.z, batch.images.shape[-2:]), batch.images).mean()
    return Loss(value, {"bernoulli": value.detach(), **code.stats})


def make_model() -> Autoencoder:
    torch.manual_seed(0)
    bottleneck, head = Gaussian((6, 7, 7), 5), Classifier((5,), 10, hidden=8)
    return Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), bottleneck, {"digit": head}, BernoulliLikelihood()
    )


@pytest.fixture
def batch(digits: Splits) -> Batch:
    some = digits.train.batch(slice(8))
    return Batch(some.images, torch.where(torch.arange(8) % 2 == 0, some.labels, -1))


def loss_of(objective: Objective, model: Autoencoder, batch: Batch, step: int = 0) -> Any:
    torch.manual_seed(1)
    return objective(model, batch, step)


@pytest.mark.parametrize("name", CASES)
def test_objective_gradients_reach_modules(name: str, batch: Batch) -> None:
    model, case = make_model(), CASES[name]
    objective = case.make(model)
    loss = loss_of(objective, model, batch)
    loss.total.backward()
    parts: list[Any] = [model.encoder]
    parts += [model.decoder, model.bottleneck] if case.decodes else []
    parts += [model.heads] if case.classifies else []
    if isinstance(objective, nn.Module):
        parts.append(objective)
    for part in parts:
        trained = [p for p in part.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert not any(term.requires_grad for term in loss.terms.values())
    if isinstance(objective, Consistency):
        assert not any(p.requires_grad for p in objective.averaged.parameters())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.without])
def test_objective_weight_zero_removes_term(name: str, batch: Batch) -> None:
    model = make_model()
    without = CASES[name].without
    assert without is not None
    loss, expected = (loss_of(make(model), model, batch) for make in without)
    assert loss.total == expected.total
    assert loss.terms.keys() <= expected.terms.keys()


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda joint: joint,
        UncertaintyWeighting,
        lambda joint: BetaTC(images=100, joint=joint),
        lambda joint: MMD(joint=joint),
        lambda joint: Contractive(joint=joint),
    ],
    ids=["joint", "learned", "beta-tc", "mmd", "contractive"],
)
def test_objective_encodes_corrupted_images_with_clean_target(
    make: Callable[[Joint], Objective], mode: bool, batch: Batch
) -> None:
    """The corruption blackens images; with a mask, the loss is on the upper half."""
    mask = (torch.arange(28) < 14)[:, None].expand(8, 1, 28, 28)
    model = make_model().train(mode)
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, images: seen.append(images[0]))

    def blacken(images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(images), mask

    objective = make(replace(NATS, corruption=blacken))
    loss = loss_of(objective, model, batch)
    assert corruption_of(objective) is blacken
    assert seen
    assert not any(images.any() for images in seen)
    torch.manual_seed(1)
    pixels = model.decode_params(model.encode(torch.zeros_like(batch.images)).z, batch.images.shape[-2:])
    nats = F.binary_cross_entropy_with_logits(pixels, batch.images, reduction="none")
    torch.testing.assert_close(loss.terms["bernoulli"], nats[:, :, :14].flatten(1).sum(1).mean())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.classifies])
def test_objective_ignores_missing_labels(name: str, batch: Batch) -> None:
    """Without labels the cross-entropy is 0, and the head has a gradient only from a teacher."""
    model, case = make_model(), CASES[name]
    nothing = Batch(batch.images, torch.full_like(batch.labels, -1))
    loss = loss_of(case.make(model), model, nothing)
    assert loss.terms["cross_entropy"] == 0
    assert loss.counts["cross_entropy"] == 0
    if name in ("pseudo-labels", "mean-teacher", "ladder"):
        return
    loss.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.heads.parameters())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("images", [0, 1])
def test_objective_is_finite_for_empty_and_single_batches(name: str, images: int, batch: Batch) -> None:
    model = make_model()
    loss = loss_of(CASES[name].make(model), model, Batch(batch.images[:images], batch.labels[:images]))
    assert loss.total.isfinite() or not images  # the mean of an empty batch is NaN
    assert all(term.ndim == 0 for term in loss.terms.values())
    if images:
        loss.total.backward()


@pytest.mark.parametrize("name", CASES)
def test_objective_evaluation_keeps_state(name: str, batch: Batch) -> None:
    model = make_model().eval()
    objective = CASES[name].make(model)
    before = {key: value.clone() for key, value in Modules(model, objective).state_dict().items()}
    expected = loss_of(objective, model, batch, 7).total
    with torch.no_grad():
        torch.testing.assert_close(loss_of(objective, model, batch, 7).total, expected)
    for key, value in Modules(model, objective).state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", slow_but("joint beta-tc mean-teacher", CASES))
def test_objective_resume_equals_uninterrupted_run(name: str, digits: Splits, tmp_path: Path) -> None:
    few = replace(digits, train=digits.train.select(slice(60)), validation=digits.train.select(slice(60, 80)))

    def make() -> tuple[Autoencoder, Objective]:
        model = make_model()
        return model, CASES[name].make(model)

    check_resume(make, few, tmp_path, **CASES[name].recipe)


def trained(name: str, digits: Splits, **options: Any) -> dict[str, Tensor]:
    """The state after two steps on 22 images, of which every other has a label, in batches of 16 and 6."""
    labels = torch.where(torch.arange(22) % 2 == 0, digits.train.labels[:22], -1)
    few = Splits(digits.train.select(slice(22)).relabelled(labels))
    recipe = Recipe(steps=2, batch_size=16, lr=1e-3, schedule="constant", momentum=0.0, **CASES[name].recipe, **options)
    model = make_model()
    objective = CASES[name].make(model)
    fit(model, objective, few, recipe)
    return Modules(model, objective).state_dict()


COUPLED = ("beta-tc", "mmd", "pseudo-labels", "mean-teacher", "ladder")


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("name", [name for name in CASES if name not in COUPLED])
def test_objective_in_parts_equals_the_whole_batch(name: str, digits: Splits) -> None:
    whole, parts = trained(name, digits), trained(name, digits, micro_batch=4)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{"micro_batch": 4}, {"precision": "bf16"}])
@pytest.mark.parametrize("name", CASES)
def test_objective_trains_in_parts_and_bf16(name: str, options: dict[str, Any], digits: Splits) -> None:
    before, after = make_model().state_dict(), trained(name, digits, **options)
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    assert any(not torch.equal(value, after[f"model.{key}"]) for key, value in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_objective_trains_compiled(name: str, batch: Batch) -> None:
    torch.compiler.reset()
    model = make_model()
    step = Step(model, CASES[name].make(model))
    step.compile()
    for i in range(2):
        step(batch, i).total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
