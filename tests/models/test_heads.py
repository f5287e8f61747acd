"""Heads: losses and metrics against independent computations, missing targets, and the contract of all."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, mean_absolute_error
from torch import Tensor, nn

from ae import (
    Autoencoder,
    Batch,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    DenseEncoder,
    Images,
    InputError,
    Joint,
    MultiLabel,
    Recipe,
    Regressor,
    Segmenter,
    Splits,
    Target,
    evaluate,
    fit,
    load,
    save_weights,
)
from ae.models.heads import Head, heads_of
from tests.helpers.resumed import check_resume
from tests.helpers.tiers import slow_but

CODE = (6, 3, 3)


@dataclass(frozen=True)
class Case:
    """A head, targets of 7 images 12x12 of which some are missing, and the images whose target is known."""

    make: Callable[[], nn.Module]
    target: Tensor
    known: list[int]


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def classes(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(0))


def missing(target: Tensor, *index: Any) -> Tensor:
    target = target.clone()
    for each in index:
        target[each] = math.nan if target.is_floating_point() else -1
    return target


CASES = {
    "classifier": Case(lambda: Classifier(CODE, 4, 8, "t"), missing(classes(4, 7), 2, 5), [0, 1, 3, 4, 6]),
    "regressor": Case(lambda: Regressor(CODE, "t", 1, 8, 2.0, 3.0), missing(numbers(7), 0), [1, 2, 3, 4, 5, 6]),
    "regressor-of-3": Case(lambda: Regressor(CODE, "t", 3, 8), missing(numbers(7, 3), 1, (2, 0)), [0, 2, 3, 4, 5, 6]),
    "multi-label": Case(lambda: MultiLabel(CODE, "t", 5, 8), missing(classes(2, 7, 5), 3, (4, 2)), [0, 1, 2, 4, 5, 6]),
    "segmenter": Case(
        lambda: Segmenter((1, 4, 6), "t", 3, 8),
        missing(classes(3, 7, 12, 12), 6, (0, slice(3), slice(5))),
        [0, 1, 2, 3, 4, 5],
    ),
}


def model_of(head: nn.Module, **others: nn.Module) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), heads={"h": head, **others})


def batch_of(target: Tensor) -> Batch:
    images = torch.rand(len(target), 1, 12, 12, generator=torch.Generator().manual_seed(1))
    return Batch(images, {"label": torch.full((len(target),), -1), "t": target})


def predicted(case: Case) -> tuple[Head, Tensor]:
    torch.manual_seed(0)
    model = model_of(case.make())
    return heads_of(model)["h"], model(batch_of(case.target).images).predictions["h"].detach()


def values_of(name: str) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    """Loss and metrics of the known examples, and their outputs and targets."""
    case = CASES[name]
    head, output = predicted(case)
    metrics = {key: value[case.known] for key, value in head.metrics(output, case.target).items()}
    return head.loss(output, case.target)[case.known], metrics, output[case.known], case.target[case.known]


def test_classifier_measures_cross_entropy_and_accuracy() -> None:
    loss, metrics, output, target = values_of("classifier")
    torch.testing.assert_close(loss, -output.double().softmax(1).log()[range(5), target].float())
    assert metrics["accuracy"].mean().item() == pytest.approx(accuracy_score(target, output.argmax(1)))


def test_regressor_measures_errors_of_known_numbers_in_their_units() -> None:
    loss, metrics, output, target = values_of("regressor")
    torch.testing.assert_close(loss, ((output[:, 0] - target) / 3).square())
    assert metrics["absolute_error"].mean().item() == pytest.approx(mean_absolute_error(target, output[:, 0]))
    loss, metrics, output, target = values_of("regressor-of-3")
    torch.testing.assert_close(loss, (output - target).square().nanmean(1))
    torch.testing.assert_close(metrics["absolute_error"], (output - target).abs().nanmean(1))


def test_regressor_scales_each_column() -> None:
    head = Regressor((2,), "t", 2, 3, mean=[1.0, 100.0], std=[2.0, 50.0])
    code, target = torch.randn(5, 2), torch.randn(5, 2) * 30
    scale = torch.tensor([2.0, 50.0])
    torch.testing.assert_close(head(code), torch.tensor([1.0, 100.0]) + scale * head.fc2(head.features(code)))
    torch.testing.assert_close(head.loss(head(code), target), ((head(code) - target) / scale).square().mean(1))
    with pytest.raises(InputError, match="mean and std must be one number or 2, got 3"):
        Regressor((2,), "t", 2, 3, mean=[1.0, 2.0, 3.0])


class Squared(nn.Module):
    """A head of a user's own, whose loss has a NaN where the target is missing."""

    target, loss_name = "t", "squared"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(54, 1)

    def forward(self, code: Tensor) -> Tensor:
        return self.layer(code.flatten(1))[:, 0]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square()

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {}


def test_head_of_ones_own_gets_finite_gradients_where_targets_are_missing() -> None:
    model = model_of(Squared())
    loss = Joint(reconstruction=0.0)(model, batch_of(CASES["regressor"].target), 0)
    loss.total.backward()
    assert all(p.grad.isfinite().all() for p in model.heads.parameters() if p.grad is not None)


def test_model_is_evaluated_and_trained_without_the_targets_of_its_heads(capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES["regressor"]
    model, data = model_of(case.make(), digit=Classifier(CODE, 2, 8)), data_of(case)
    plain = Images(data.train.pixels, data.train.labels, ("a", "b"))  # type: ignore[attr-defined]
    metrics = evaluate(model, plain)
    assert "digit/accuracy" in metrics
    assert not any(name.startswith("h/") for name in metrics)
    assert "no metrics of h: no head with metrics" in capsys.readouterr().err
    assert "val/mse" in fit(model, Joint(classification=0.0), Splits(plain, plain), RECIPE)


def test_regressor_output_is_in_the_targets_units() -> None:
    torch.manual_seed(0)
    head = Regressor((2,), "t", 1, 3, mean=50.0, std=4.0)
    code = torch.randn(5, 2)
    torch.testing.assert_close(head(code), 50 + 4 * head.fc2(head.fc1(code).relu()))


def test_multi_label_measures_known_labels() -> None:
    loss, metrics, output, target = values_of("multi-label")
    for i in range(len(target)):
        known = target[i] >= 0
        probability = output[i].double().sigmoid()
        likelihood = torch.where(target[i] == 1, probability, 1 - probability)[known]
        assert loss[i].item() == pytest.approx(-likelihood.log().sum().item(), rel=1e-5)
        right = ((probability > 0.5) == (target[i] == 1))[known].double()
        assert metrics["label_accuracy"][i].item() == pytest.approx(right.mean().item())
        assert metrics["exact_match"][i].item() == right.prod().item()


def test_segmenter_measures_known_pixels() -> None:
    loss, metrics, output, target = values_of("segmenter")
    for i in range(len(target)):
        known = target[i] >= 0
        logits, of_known = output[i].movedim(0, -1)[known].double(), target[i][known]
        nats = -logits.log_softmax(1)[range(len(of_known)), of_known].mean()
        assert loss[i].item() == pytest.approx(nats.item(), rel=1e-5)
        guessed = logits.argmax(1)
        assert metrics["pixel_accuracy"][i].item() == pytest.approx(accuracy_score(of_known, guessed))
        expected = jaccard_score(of_known, guessed, labels=of_known.unique().numpy(), average="macro")
        assert metrics["iou"][i].item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [(28, 28), (13, 9), (5, 4)])
def test_segmenter_gives_a_logit_for_each_pixel_of_any_size(size: tuple[int, int]) -> None:
    model = model_of(Segmenter((1, 4, 6), "t", 3, 8))
    assert model(torch.rand(2, 1, *size)).predictions["h"].shape == (2, 3, *size)


@pytest.mark.parametrize("name", CASES)
def test_head_loss_ignores_missing_targets(name: str) -> None:
    """Neither the loss nor the gradient depends on examples without a target."""
    case = CASES[name]
    model = model_of(case.make())
    objective = Joint(reconstruction=0.0)
    loss = objective(model, batch_of(case.target), 0)
    loss.total.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    whole = batch_of(case.target)
    known = objective(model, Batch(whole.images[case.known], {"t": case.target[case.known]}), 0)
    known.total.backward()
    torch.testing.assert_close(loss.total, known.total)
    assert all(loss.terms[key].isfinite() for key in loss.terms)
    for expected, parameter in zip(gradients, [p for p in model.parameters() if p.grad is not None], strict=True):
        assert expected.isfinite().all()
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_head_without_any_target_has_no_gradient(name: str) -> None:
    case = CASES[name]
    model = model_of(case.make())
    target = torch.full_like(case.target, math.nan if case.target.is_floating_point() else -1)
    loss = Joint(reconstruction=1.0)(model, batch_of(target), 0)
    loss.total.backward()
    assert loss.counts[f"{heads_of(model)['h'].loss_name}"] == 0
    assert all(p.grad is None or not p.grad.any() for p in model.heads.parameters())


def data_of(case: Case) -> Splits:
    pixels = (batch_of(case.target).images * 255).to(torch.uint8)
    labels = torch.tensor([0, 1, -1, 0, 1, 1, 0])
    images = Images(pixels, labels, ("a", "b"), {"t": case.target})
    return Splits(images, images)


RECIPE = Recipe(steps=2, batch_size=5, lr=0.01, momentum=0.0, schedule="constant")


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"micro_batch": 2}])
@pytest.mark.parametrize("name", CASES)
def test_head_trains_beside_a_classifier(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Metrics of both heads are logged; the average over parts is that of the batch; weights can be loaded."""
    case = CASES[name]
    model, data = model_of(case.make(), digit=Classifier(CODE, 2, 8)), data_of(case)
    results = fit(model, Joint(heads={"h": 0.5}), data, replace(RECIPE, **options))
    head = heads_of(model)["h"]
    assert {"val/digit/accuracy", f"val/h/{head.loss_name}", "val/mse", "val/loss"} <= set(results)
    assert all(math.isfinite(value) for value in results.values())
    terms = evaluate(model, data.train, Joint(heads={"h": 0.5}))
    expected = 20 * terms["mse"] + terms["digit/cross_entropy"] + 0.5 * terms[f"h/{head.loss_name}"]
    assert terms["loss"] == pytest.approx(expected, rel=1e-4)
    save_weights(tmp_path / "weights", model)
    loaded = load(tmp_path / "weights")
    images = batch_of(case.target).images
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).predictions["h"], model.eval()(images).predictions["h"])


@pytest.mark.parametrize("name", slow_but("multi-label", CASES))
def test_head_resume_equals_uninterrupted_training(name: str, tmp_path: Path) -> None:
    def make() -> tuple[Autoencoder, Joint]:
        torch.manual_seed(1)
        return model_of(CASES[name].make(), digit=Classifier(CODE, 2, 8)), Joint(heads={"h": 0.5})

    check_resume(make, data_of(CASES[name]), tmp_path, batch_size=5)


@pytest.mark.slow
def test_heads_of_every_kind_train_compiled_as_they_do_eagerly() -> None:
    pixels = (batch_of(CASES["classifier"].target).images * 255).to(torch.uint8)
    targets = {"a": CASES["classifier"].target, "b": CASES["regressor-of-3"].target}
    targets |= {"c": CASES["multi-label"].target, "d": CASES["segmenter"].target}
    images = Images(pixels, torch.full((7,), -1), (), targets)
    states = []
    for compiles in (False, True):
        torch.compiler.reset()
        torch.manual_seed(1)
        heads = {"a": Classifier(CODE, 4, 8, "a"), "b": Regressor(CODE, "b", 3, 8), "c": MultiLabel(CODE, "c", 5, 8)}
        model = model_of(Segmenter((1, 4, 6), "d", 3, 8), **heads)
        fit(model, Joint(), Splits(images), replace(RECIPE, compile=compiles))
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_head_trained_in_parts_equals_the_whole_batch(name: str) -> None:
    states = []
    for parts in (1, 3):
        torch.manual_seed(1)
        model = model_of(CASES[name].make(), digit=Classifier(CODE, 2, 8))
        fit(model, Joint(), data_of(CASES[name]), replace(RECIPE, micro_batch=-(-5 // parts)))
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "target", "complaint"),
    [
        ("regressor", classes(3, 7), r"the target t must be 1 floats an image, got int64 \[\]"),
        ("regressor", numbers(7, 2), r"the target t must be 1 floats an image, got float32 \[2\]"),
        ("multi-label", classes(2, 7, 4), r"the target t must be 5 integers 0 or 1 an image, got int64 \[4\]"),
        ("segmenter", classes(2, 7, 6, 6), r"the target t must be classes \[1, 12, 12\], one of each pixel"),
        ("multi-label", classes(4, 7, 5), "the head h takes labels 0 to 1; there is a class of t 3"),
        ("segmenter", classes(5, 7, 12, 12), "the head h takes labels 0 to 2; there is a class of t 4"),
        ("classifier", numbers(7), "labels must be int64, got float32"),
        ("classifier", classes(9, 7), "the head h takes labels 0 to 3; there is a class of t"),
    ],
)
@pytest.mark.usefixtures("unhooked")
def test_fit_refuses_targets_that_do_not_fit_the_head(name: str, target: Tensor, complaint: str) -> None:
    case = CASES[name]
    with pytest.raises(InputError, match=complaint):
        fit(model_of(case.make()), Joint(), data_of(Case(case.make, target, [])), RECIPE)


def test_fit_refuses_a_head_whose_target_the_data_lack(digits: Splits) -> None:
    torch.manual_seed(0)
    model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), heads={"h": Regressor((6, 7, 7), "age")})
    with pytest.raises(InputError, match="the data have no target age, but label"):
        fit(model, Joint(), digits, RECIPE)


def test_joint_refuses_weights_of_unknown_heads() -> None:
    case = CASES["classifier"]
    with pytest.raises(InputError, match=r"Joint\.heads has a weight of other; the model has the heads h"):
        Joint(heads={"other": 1.0})(model_of(case.make()), batch_of(case.target), 0)


def test_heads_that_read_stages_need_an_encoder_with_stages() -> None:
    plain = Autoencoder(nn.Conv2d(1, 6, 3), heads={"h": Segmenter((1, 4, 6), "t", 3)})
    with pytest.raises(InputError, match=r"a part reads the encoder's stages, and Conv2d has no features"):
        plain(torch.rand(2, 1, 12, 12))
    dense = Autoencoder(DenseEncoder((1, 12, 12), (8,)), heads={"h": Segmenter((1, 8), "t", 3)})
    with pytest.raises(InputError, match=r"a Segmenter reads stages \[b c h w\], got one of \[2, 8\]"):
        dense(torch.rand(2, 1, 12, 12))
    other = Autoencoder(ConvEncoder(1, (4, 8)), heads={"h": Segmenter((1, 4, 6), "t", 3)})
    with pytest.raises(InputError, match=r"stages must have channels \[1, 4, 6\], got \[1, 4, 8\]"):
        other(torch.rand(2, 1, 12, 12))


def test_classifier_equals_two_linear_layers() -> None:
    head = Classifier((64, 7, 7), classes=10)
    code = torch.randn(3, 64, 7, 7)
    hidden = (code.reshape(3, 3136) @ head.fc1.weight.T + head.fc1.bias).clamp(min=0)
    assert hidden.shape == (3, 128)
    torch.testing.assert_close(head(code), hidden @ head.fc2.weight.T + head.fc2.bias)


@pytest.mark.usefixtures("unhooked")
def test_classifier_rejects_wrong_shapes() -> None:
    with pytest.raises(InputError, match=r"code must be \[b 64 7 7\], got \[2, 16\]"):
        Classifier((64, 7, 7))(torch.randn(2, 16))
    with pytest.raises(InputError, match="classes must be positive, got 0"):
        Classifier((16,), classes=0)


def test_evaluate_names_classes_of_a_target() -> None:
    target = Target(torch.tensor([0, 1, 1, 0, -1, 1, 0]), ("cat", "dog"))
    images = Images(torch.zeros(7, 1, 12, 12, dtype=torch.uint8), torch.full((7,), -1), (), {"t": target})
    metrics = evaluate(model_of(Classifier(CODE, 2, 8, "t")), images)
    assert {"accuracy", "accuracy/cat", "accuracy/dog"} <= set(metrics)
    assert metrics["accuracy"] == pytest.approx((metrics["accuracy/cat"] + metrics["accuracy/dog"]) / 2)  # 3 of each
