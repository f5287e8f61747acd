"""Bottlenecks, objectives and evaluation: the same as in one process."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ae import (
    FSQ,
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
    Data,
    DeconvDecoder,
    Dense,
    Gaussian,
    Identity,
    Images,
    Joint,
    Ladder,
    Loss,
    MultiLabel,
    Recipe,
    Regressor,
    Segmenter,
    Sphere,
    Splits,
    TeacherConfig,
    TopK,
    UncertaintyWeighting,
    VectorQuantizer,
    evaluate,
    fit,
)
from ae.data.corruptions import PatchMask
from ae.functional import adversarial
from ae.models.bottlenecks import HierarchicalGaussian, SpatialGaussian
from ae.models.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
)
from ae.models.priors import GaussianMixture, TopDownGaussian
from ae.training.step import Objective, Step
from ae.utils.distributed import (
    all_gather,
    average_gradients,
    rank,
    shard,
)
from ae.utils.global_batch import global_batch

FEATURES: tuple[int, ...] = (6, 3, 3)
BOTTLENECKS: list[Callable[[], nn.Module]] = [
    Identity,
    lambda: Dense(FEATURES, 5),
    lambda: Sphere(FEATURES, 5),
    lambda: TopK(FEATURES, 5, 2),
    lambda: Gaussian(FEATURES, 5),
    lambda: Gaussian(FEATURES, 5, GaussianMixture(5, 3)),
    lambda: SpatialGaussian(FEATURES, 2),
    lambda: HierarchicalGaussian((144, 54), FEATURES, TopDownGaussian((3, 2), hidden=4)),
    lambda: VectorQuantizer(6, codebook_size=4, dead_code_threshold=0.9),
    lambda: FSQ(6, (4, 3)),
]
NATS = Joint(reconstruction=1.0, beta=1.0, free_bits=0.1)
NATS_OBJECTIVES: list[Callable[[Autoencoder], Objective]] = [
    lambda model: NATS,
    lambda model: IWAE(3),
    lambda model: BetaTC(100),
]
LIKELIHOODS: list[Callable[[], nn.Module]] = [
    lambda: GaussianLikelihood(0.5),
    DiscretizedLogisticLikelihood,
    lambda: CategoricalLikelihood(8),
]
TAUGHT = TeacherConfig(align=5, confidence=0.0)
OBJECTIVES: list[Callable[[Autoencoder], Objective]] = [
    lambda model: Joint(),
    lambda model: Joint(corruption=PatchMask(4, 0.5)),
    lambda model: MMD(),
    lambda model: Contractive(),
    lambda model: UncertaintyWeighting(Joint()),
    lambda model: Ladder(model, 12, 12, (1.0, 0.1, 0.1, 0.1, 0.1)),
    lambda model: Consistency(model, 10, Joint(), TAUGHT),
    lambda model: Consistency(model, 10, Joint(), replace(TAUGHT, method="mean-teacher")),
]


def _channels(likelihood: Any) -> int:
    return 1 if likelihood is None else likelihood.channels(1)


def model_with(bottleneck: nn.Module, likelihood: nn.Module | None = None) -> Autoencoder:
    shape = FEATURES
    if isinstance(bottleneck, Dense | Gaussian | HierarchicalGaussian):
        shape = (5,)
    elif isinstance(bottleneck, FSQ | SpatialGaussian):
        shape = (2, 3, 3)
    encoder, decoder = ConvEncoder(1, (4, 6), norm=True), DeconvDecoder(_channels(likelihood), (6, 4), norm=True)
    return Autoencoder(encoder, decoder, bottleneck, {"digit": Classifier(shape)}, likelihood)


def check_codebook_updates_are_global() -> None:
    torch.manual_seed(0)
    one = VectorQuantizer(3, codebook_size=4, decay=0.5, dead_code_threshold=0.0)
    one.initialized.fill_(True)
    many = copy.deepcopy(one)
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(5, 3, 2, 2)
        expected = one(x)
        with global_batch(5):
            code = many(shard(x))
        torch.testing.assert_close(code.z, shard(expected.z))
        torch.testing.assert_close(code.stats["perplexity"], expected.stats["perplexity"])
        torch.testing.assert_close(many.codebook, one.codebook)
    torch.manual_seed(rank())  # initialisation and re-initialisation of codes depend on random streams and shards
    many = VectorQuantizer(3, codebook_size=8, dead_code_threshold=0.9)
    for _ in range(5):
        with global_batch(6):
            many(torch.randn(3, 3, 2, 2) + rank())
        books = all_gather(many.codebook)
        assert all(torch.equal(book, books[0]) for book in books)


def check_codebook_updates_of_parts_are_those_of_the_batch() -> None:
    torch.manual_seed(0)
    one = VectorQuantizer(3, codebook_size=4, decay=0.5, dead_code_threshold=0.0)
    one.initialized.fill_(True)
    many = copy.deepcopy(one)
    for step in range(3):
        torch.manual_seed(step)
        x = torch.randn(7, 3, 2, 2)
        one(x)
        for i, part in enumerate(shard(x).tensor_split(3)):  # of 2, 1 and 1 images, or fewer
            with global_batch(7, i, 3):
                many(part)
        torch.testing.assert_close(many.codebook, one.codebook)


class Pair(nn.Module):
    """A generator, a scale, and a discriminator, a weighted sum of pixels: deterministic losses in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(-1, 1, 144))

    def learners(self, model: nn.Module) -> dict[str, Any]:
        return {"discriminator": self.parameters(), "generator": model.parameters()}

    def forward(self, model: nn.Linear, batch: Batch, step: int) -> Iterator[tuple[str, Loss]]:
        real, fake = batch.images.flatten(1), model(batch.images.flatten(1))
        values = adversarial(real @ self.weights, True) + adversarial(fake.detach() @ self.weights, False)
        labelled = batch.mean(values, "label")
        yield "discriminator", Loss(labelled, {"d": labelled.detach()}, {"d": batch.count("label")})
        yield "generator", Loss(batch.mean(adversarial(fake @ self.weights, True)), {})


def check_several_losses_and_parts_equal_a_loop_written_out() -> None:
    torch.manual_seed(0)
    pixels, labels = torch.randint(0, 256, (23, 1, 12, 12), dtype=torch.uint8), torch.arange(23) % 3 - 1
    images, model, objective = Images(pixels, labels, ("a", "b")), nn.Linear(144, 144), Pair()
    expected, discriminator = copy.deepcopy(model), copy.deepcopy(objective)
    recipe = Recipe(steps=3, batch_size=10, optimizer="sgd", momentum=0.9, lr=0.05, schedule="constant", grad_clip=0.5)
    optimizers = {
        "discriminator": torch.optim.SGD(discriminator.parameters(), 0.05, 0.9),
        "generator": torch.optim.SGD(expected.parameters(), 0.05, 0.9),
    }
    for index in Splits(images).batches(10, 0).order(0):
        for name, loss in discriminator(expected, images.batch(index), 0):
            optimizers[name].zero_grad()
            loss.total.backward()
            (group,) = optimizers[name].param_groups
            nn.utils.clip_grad_norm_(group["params"], 0.5)
            optimizers[name].step()
    for micro_batch in (None, 3, 1, "auto"):
        ours, theirs = copy.deepcopy(model), copy.deepcopy(objective)
        fit(ours, theirs, Splits(images), replace(recipe, micro_batch=micro_batch))
        torch.testing.assert_close(ours.weight, expected.weight, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(theirs.weights, discriminator.weights, atol=1e-6, rtol=1e-5)


def check_checkpointing_equals_training_without() -> None:
    """Batch norm averages over the processes in the forward pass and again in the second one."""
    pixels, labels = torch.randint(0, 256, (23, 1, 12, 12), dtype=torch.uint8), torch.arange(23) % 3 - 1
    images = Images(pixels, labels, tuple("0123456789"))
    torch.manual_seed(0)
    model = model_with(Dense(FEATURES, 5))
    other = copy.deepcopy(model)
    recipe = Recipe(steps=3, batch_size=10, lr=0.01, schedule="constant")
    fit(model, Joint(), Splits(images), recipe)
    fit(other, Joint(), Splits(images), replace(recipe, checkpointing=True))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name)


def check_bottleneck_stats_are_global() -> None:
    torch.manual_seed(0)
    features = torch.randn(7, *FEATURES)
    for make in (lambda: TopK(FEATURES, 5, 2), lambda: Gaussian(FEATURES, 5)):
        bottleneck = make()
        expected = bottleneck(features).stats
        with global_batch(7):
            stats = bottleneck(shard(features)).stats
        assert stats == expected


def check_objectives_average_to_the_global_loss() -> None:
    """Deterministic objectives; the labelled images are in the first process, and a teacher serves the others."""
    deterministic = TeacherConfig(align=5, weak=Augment(), strong=Augment(), hide=PatchMask(4, 0.0), confidence=0.0)
    torch.manual_seed(0)
    images, labels = torch.rand(7, 1, 12, 12), torch.tensor([3, 1, 2, -1, -1, -1, -1])
    whole, mine = Batch(images, labels), Batch(shard(images), shard(labels))
    model = Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Dense((6, 3, 3), 5), {"digit": Classifier((5,))}
    )
    for make in (
        lambda: Joint(),
        lambda: UncertaintyWeighting(Joint()),
        lambda: Consistency(model, 10, Joint(), deterministic),
        lambda: Consistency(model, 10, Joint(), replace(deterministic, method="mean-teacher")),
    ):
        alone, together = make(), make()
        for step in range(2):
            expected = alone(model, whole, step)
            with global_batch(7):
                loss = together(model, mine, step)
            total = torch.stack(all_gather(loss.total.detach())).mean()
            torch.testing.assert_close(total, expected.total.detach())
        if isinstance(alone, Consistency):
            assert isinstance(together, Consistency)
            torch.testing.assert_close(together.frequencies, alone.frequencies)


def check_heads_average_to_the_global_loss() -> None:
    """Heads of every kind; some targets are known in the first process only, some nowhere."""
    torch.manual_seed(0)
    count, nan = 7, float("nan")
    targets = {
        "label": torch.tensor([3, 1, 2, -1, -1, -1, -1]),
        "age": torch.tensor([nan, nan, nan, nan, 4.0, 5.0, nan]),
        "none": torch.full((count,), -1),
        "many": torch.randint(-1, 2, (count, 4)),
        "mask": torch.randint(-1, 3, (count, 12, 12)),
    }
    heads = {
        "digit": Classifier(FEATURES),
        "age": Regressor(FEATURES, "age"),
        "none": Classifier(FEATURES, 3, target="none"),
        "many": MultiLabel(FEATURES, "many", 4),
        "mask": Segmenter((1, 4, 6), "mask", 3),
    }
    whole = Batch(torch.rand(count, 1, 12, 12), targets)
    mine = Batch(shard(whole.images), {name: shard(target) for name, target in targets.items()})
    alone = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), heads=heads)
    together = copy.deepcopy(alone)
    expected = Joint()(alone, whole, 0)
    expected.total.backward()
    for parts in (1, 2):
        together.zero_grad()
        totals = []
        for i, part in enumerate(mine.parts(parts)):
            with global_batch(count, i, parts):
                loss = Joint()(together, part, 0)
                (loss.total / parts).backward()
            totals.append(loss.total.detach())
        average_gradients(list(together.parameters()))
        total = torch.stack(all_gather(torch.stack(totals).mean())).mean()
        torch.testing.assert_close(total, expected.total.detach())
        for (name, ours), theirs in zip(together.named_parameters(), alone.parameters(), strict=True):
            assert ours.grad is not None, name
            assert theirs.grad is not None, name
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)


def check_step_on_one_image_equals_one_process() -> None:
    """The first process has the image and the noise of a single process; the shards of the others are empty."""
    for bottleneck in BOTTLENECKS:
        check_batch_of_one(bottleneck, lambda model: Joint())
    for objective in OBJECTIVES:
        check_batch_of_one(lambda: Gaussian(FEATURES, 5), objective)
    for objective in NATS_OBJECTIVES:
        check_batch_of_one(lambda: Gaussian(FEATURES, 5), objective, BernoulliLikelihood())
        check_batch_of_one(lambda: Gaussian(FEATURES, 5), objective, GaussianLikelihood(learned=True))
    for likelihood in LIKELIHOODS:
        check_batch_of_one(lambda: Gaussian(FEATURES, 5), NATS_OBJECTIVES[0], likelihood())


def check_batch_of_one(
    bottleneck: Callable[[], nn.Module],
    objective: Callable[[Autoencoder], Objective],
    likelihood: nn.Module | None = None,
) -> None:
    torch.manual_seed(0)
    model = model_with(bottleneck(), likelihood)
    alone = Step(model, objective(model))
    together = copy.deepcopy(alone)
    for step in range(2):
        image = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(step))
        batch = Batch(image, torch.tensor([step - 1]))  # without a label, then with one
        alone.zero_grad()
        together.zero_grad()
        torch.manual_seed(step)
        expected = alone(batch, step)
        expected.total.backward()
        torch.manual_seed(step)
        with global_batch(1):
            loss = together(Batch(shard(batch.images), shard(batch.labels)), step)
            loss.total.backward()
        average_gradients(list(together.parameters()))
        total = torch.stack(all_gather(loss.total.detach())).mean()
        torch.testing.assert_close(total, expected.total.detach())
        for name in ("active_units", "used", "perplexity", "codes_used"):
            assert loss.terms.get(name) == expected.terms.get(name), name
        for name in ("rate_1", "rate_2"):
            if name in expected.terms:
                torch.testing.assert_close(loss.terms[name], expected.terms[name])
        for (name, ours), theirs in zip(together.named_parameters(), alone.parameters(), strict=True):
            if theirs.grad is not None and theirs.grad.any():
                assert ours.grad is not None, name
                torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)
    for before, after in zip(alone.buffers(), together.buffers(), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def check_evaluate_equals_one_process() -> None:
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads={"digit": Classifier((8, 7, 7))})
    data = Data("mnist", limit=100, validation=301).load()
    assert data.validation is not None
    metrics = evaluate(model, data.validation, Joint(), batch_size=50)
    dist.barrier()
    expected = all_gather(metrics)[0]
    assert metrics == expected
    pixels, labels = data.validation.batch(slice(None)).images, data.validation.labels
    with torch.no_grad():
        output = model(pixels)
    assert metrics["accuracy"] == pytest.approx(
        (output.predictions["digit"].argmax(1) == labels).double().mean().item()
    )
    assert metrics["mse"] == pytest.approx((output.reconstruction - pixels).square().mean().item(), rel=1e-5)


def check_evaluate_takes_fewer_images_than_processes() -> None:
    torch.manual_seed(0)
    model = model_with(Gaussian(FEATURES, 5))
    images = Images(torch.randint(0, 256, (1, 1, 12, 12), dtype=torch.uint8), torch.tensor([3]), tuple("0123456789"))
    metrics = all_gather(evaluate(model, images, Joint()))
    assert all(each == metrics[0] for each in metrics)
    assert metrics[0].keys() >= {"loss", "mse", "accuracy", "accuracy/3"}


CHECKS = [
    check_codebook_updates_are_global,
    check_codebook_updates_of_parts_are_those_of_the_batch,
    check_several_losses_and_parts_equal_a_loop_written_out,
    check_checkpointing_equals_training_without,
    check_bottleneck_stats_are_global,
    check_objectives_average_to_the_global_loss,
    check_heads_average_to_the_global_loss,
    check_step_on_one_image_equals_one_process,
    check_evaluate_equals_one_process,
    check_evaluate_takes_fewer_images_than_processes,
]
