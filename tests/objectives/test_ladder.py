"""The ladder network, compared with the paper's equations."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ae import Augment, Autoencoder, Batch, Classifier, ConvEncoder, Dense, InputError, Ladder
from ae.objectives.ladder import Combinator


def make_model(norm: bool = True) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(ConvEncoder(1, (4, 6), norm), heads={"digit": Classifier((6, 7, 7), 10, hidden=8)})


def test_combinator_equals_paper() -> None:
    combinator = Combinator(2)
    z, u = torch.randn(5, 2, 3, 3), torch.randn(5, 2, 3, 3)
    torch.testing.assert_close(combinator(z, u), z)  # initialised as the identity
    torch.nn.init.normal_(combinator.mean)
    torch.nn.init.normal_(combinator.slope)
    a, b = combinator.mean[:, 1].tolist(), combinator.slope[:, 1].tolist()
    value, above = z[2, 1, 0, 1], u[2, 1, 0, 1]
    m = a[0] * torch.sigmoid(a[1] * above + a[2]) + a[3] * above + a[4]
    v = b[0] * torch.sigmoid(b[1] * above + b[2]) + b[3] * above + b[4]
    torch.testing.assert_close(combinator(z, u)[2, 1, 0, 1], (value - m) * v + m)
    assert Combinator(3)(torch.randn(4, 3), torch.randn(4, 3)).shape == (4, 3)


def test_ladder_initial_error_is_the_noise_variance(batch: Batch) -> None:
    """Combinators are initialised as the identity: each level's error is its noise's variance."""
    torch.manual_seed(0)
    loss = Ladder(make_model(), 28, 28, (1.0,) * 5, noise=0.3)(make_model(), batch, 0)
    assert loss.terms["denoising/0"].item() == pytest.approx(0.09, rel=0.05)
    assert loss.terms["denoising/1"].item() > 0.09  # includes the propagated noise of the image
    denoising = sum(loss.terms[f"denoising/{i}"] for i in range(5))
    torch.testing.assert_close(loss.total, loss.terms["cross_entropy"] + denoising)
    weighted = Ladder(make_model(), 28, 28, (0.0, 2.0, 0.0, 0.0, 3.0), noise=0.3)
    torch.manual_seed(1)
    loss = weighted(make_model(), batch, 0)
    assert {"denoising/1", "denoising/4"} == {name for name in loss.terms if name.startswith("denoising")}
    expected = loss.terms["cross_entropy"] + 2 * loss.terms["denoising/1"] + 3 * loss.terms["denoising/4"]
    torch.testing.assert_close(loss.total, expected)


def test_ladder_noise_scales_with_activations(batch: Batch) -> None:
    """Logits of ten times the scale have ten times the noise, and the gradient by the scale includes the noise."""
    model = make_model()
    objective = Ladder(model, 28, 28, (0.0,) * 5, noise=0.5)
    head = model.heads["digit"]
    assert isinstance(head, Classifier)

    def cross_entropy(scale: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        handle = head.fc2.register_forward_hook(lambda _, __, logits: logits * scale)
        value = objective(model, batch, 0).total
        handle.remove()
        return value

    scale = torch.tensor(5.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(cross_entropy(scale), scale)
    with torch.no_grad():
        expected = (cross_entropy(torch.tensor(5.01)) - cross_entropy(torch.tensor(4.99))) / 0.02
    torch.testing.assert_close(gradient, expected, rtol=0.02, atol=1e-3)


def test_ladder_gradients_flow_into_targets(batch: Batch) -> None:
    """Compare with a difference quotient: a change of the clean path's logits changes the error."""
    model = make_model().double()
    objective = Ladder(model, 28, 28, (0.0, 0.0, 0.0, 1.0, 10.0)).double()
    unlabelled = Batch(batch.images.double(), torch.full_like(batch.labels, -1))
    weight = model.get_parameter("heads.digit.fc1.weight")

    def error() -> torch.Tensor:
        torch.manual_seed(3)
        return objective(model, unlabelled, 0).total

    (gradient,) = torch.autograd.grad(error(), weight)
    with torch.no_grad():
        weight[2, 100] += 1e-5
        above = error()
        weight[2, 100] -= 2e-5
        expected = (above - error()) / 2e-5
    torch.testing.assert_close(gradient[2, 100], expected, rtol=1e-4, atol=0)


def test_ladder_noisy_path_classifies_and_keeps_batch_norm_statistics(batch: Batch) -> None:
    model, alone = make_model(), make_model()
    objective = Ladder(model, 28, 28, (0.0,) * 5, noise=1e-6)
    loss = objective(model, batch, 0)
    logits = alone(batch.images).predictions["digit"]
    labelled = batch.labels >= 0
    torch.testing.assert_close(
        loss.terms["cross_entropy"],
        F.cross_entropy(logits[labelled], batch.labels[labelled]),
        rtol=1e-3,
        atol=1e-4,
    )
    noisy = Ladder(model, 28, 28, (0.0,) * 5, noise=3.0)
    assert abs(noisy(model, batch, 0).terms["cross_entropy"] - loss.terms["cross_entropy"]) > 0.01
    alone(batch.images)
    for (name, ours), theirs in zip(model.named_buffers(), alone.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(ours, theirs)
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_ladder_augments_labelled_images_only(batch: Batch) -> None:
    seen: list[torch.Tensor] = []
    model = make_model(norm=False)
    objective = Ladder(model, 28, 28, (0.0,) * 5, noise=1e-9, augment=Augment(shift=3, rotate=30.0))
    model.get_submodule("encoder.stages.0.conv").register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    objective(model, batch, 0)
    clean, noisy = seen
    torch.testing.assert_close(clean, noisy)
    same = ((clean * 0.5 + 0.5) - batch.images).abs().flatten(1).amax(1) < 1e-5
    assert torch.equal(same, batch.labels < 0)


def test_ladder_takes_odd_sizes(batch: Batch) -> None:
    model = Autoencoder(ConvEncoder(1, (4, 6), norm=True), heads={"digit": Classifier((6, 3, 4), 10)})
    odd = Batch(torch.rand(12, 1, 11, 14), batch.labels)
    Ladder(model, 11, 14, (1.0,) * 5)(model, odd, 0).total.backward()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"weights": (1.0, 1.0)}, "5 weights: image, 2 stages, hidden layer, logits; got \\(1.0, 1.0\\)"),
        ({"weights": (1.0, 1.0, -1.0, 1.0, 1.0)}, r"weights must be 0 or more, got -1.0"),
        ({"noise": 0.0}, "noise must be positive, got 0"),
    ],
)
def test_ladder_rejects_invalid_arguments(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Ladder(make_model(), 28, 28, **{"weights": (1.0,) * 5, **arguments})
    with pytest.raises(InputError, match=r"a ConvEncoder and one Classifier, got Dense$"):
        Ladder(Autoencoder(Dense((1, 28, 28), 4)), 28, 28, (1.0,))
    with pytest.raises(InputError, match=r"a ConvEncoder and one Classifier, got ConvEncoder, Linear$"):
        Ladder(Autoencoder(ConvEncoder(), heads={"digit": torch.nn.Linear(4, 10)}), 28, 28, (1.0,))
