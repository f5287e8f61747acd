import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from ae import (
    Autoencoder,
    Batch,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    Gaussian,
    InputError,
    Joint,
    UncertaintyWeighting,
    WeightSchedule,
    unchecked_range,
)
from ae.data.corruptions import PatchMask
from ae.functional import bernoulli_nll, cross_entropy, gaussian_nll, squared_error
from ae.models.likelihoods import BernoulliLikelihood, GaussianLikelihood, SquaredError


@pytest.fixture
def model() -> Autoencoder:
    bottleneck = Dense((6, 3, 3), 5)
    return Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), bottleneck, {"digit": Classifier((5,), 3)})


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.rand(6, 1, 10, 12), torch.tensor([0, -1, 2, -1, 1, 2]))


def test_joint_is_the_weighted_sum_of_terms(model: Autoencoder, batch: Batch) -> None:
    loss = Joint(reconstruction=20.0, classification=3.0)(model, batch, 0)
    output = model(batch.images)
    mse = (output.reconstruction - batch.images).square().mean()
    labelled = batch.labels >= 0
    nats = torch.nn.functional.cross_entropy(output.predictions["digit"][labelled], batch.labels[labelled])
    torch.testing.assert_close(loss.terms["mse"], mse)
    torch.testing.assert_close(loss.terms["cross_entropy"], nats)
    torch.testing.assert_close(loss.total, 20 * mse + 3 * nats)
    right = (output.predictions["digit"].argmax(1) == batch.labels)[labelled]
    assert loss.terms["accuracy"].item() == pytest.approx(right.float().mean().item())
    assert loss.counts["cross_entropy"] == loss.counts["accuracy"] == 4
    assert not any(term.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize("likelihood", [SquaredError(), BernoulliLikelihood(), GaussianLikelihood(0.5)])
def test_joint_reconstruction_is_the_models_likelihood(model: Autoencoder, batch: Batch, likelihood: Any) -> None:
    model.likelihood = likelihood
    loss = Joint()(model, batch, 0)
    pixels = model(batch.images).params
    expected = {
        "mse": squared_error(pixels.sigmoid(), batch.images),
        "bernoulli": bernoulli_nll(pixels, batch.images),
        "gaussian": gaussian_nll(pixels.sigmoid(), batch.images, 0.5),
    }
    torch.testing.assert_close(loss.terms[likelihood.name], expected[likelihood.name].mean())


def test_joint_weight_zero_removes_term(model: Autoencoder, batch: Batch) -> None:
    loss = Joint(reconstruction=0.0)(model, batch, 0)
    assert set(loss.terms) == {"cross_entropy", "accuracy"}
    loss.total.backward()
    assert model.decoder is not None
    assert all(parameter.grad is None for parameter in model.decoder.parameters())
    model.zero_grad()
    loss = Joint(classification=0.0, aux=0.0)(model, batch, 0)
    assert set(loss.terms) == {"mse"}
    loss.total.backward()
    assert all(parameter.grad is None for parameter in model.heads.parameters())


def test_joint_ignores_unlabelled_images_in_classification(model: Autoencoder, batch: Batch) -> None:
    others = Batch(torch.where(batch.labels[:, None, None, None] < 0, 0.5, batch.images), batch.labels)
    objective = Joint(reconstruction=0.0)
    torch.testing.assert_close(objective(model, batch, 0).total, objective(model, others, 0).total)
    none = objective(model, Batch(batch.images, torch.full((6,), -1)), 0)
    none.total.backward()
    assert none.total.item() == 0
    assert none.counts["accuracy"] == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_joint_encodes_corrupted_images_with_clean_target(model: Autoencoder, batch: Batch) -> None:
    mask = torch.rand(6, 1, 10, 12) > 0.3

    def hide(images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(mask, 2.0, images), mask

    with unchecked_range():
        loss = Joint(corruption=hide)(model, batch, 0)
        corrupted = model(torch.where(mask, 2.0, batch.images))
    torch.testing.assert_close(loss.terms["mse"], squared_error(corrupted.reconstruction, batch.images, mask).mean())
    nats = cross_entropy(corrupted.predictions["digit"], batch.labels)[batch.labels >= 0].mean()
    torch.testing.assert_close(loss.terms["cross_entropy"], nats)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"reconstruction": -1.0}, "Joint.reconstruction must be 0 or more, got -1"),
        ({"classification": float("nan")}, "Joint.classification must be finite, got nan"),
        ({"reconstruction": 0.0, "classification": 0.0}, "nothing to learn"),
    ],
)
def test_joint_rejects_invalid_weights(arguments: dict[str, float], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Joint(**arguments)  # type: ignore[arg-type]


def test_joint_rejects_a_rate_beside_a_likelihood_that_is_not_in_nats(model: Autoencoder, batch: Batch) -> None:
    with pytest.raises(InputError, match="the rate is in nats, and the likelihood mse is not"):
        Joint(beta=1.0)(model, batch, 0)


def test_joint_rejects_models_without_required_parts(batch: Batch) -> None:
    encoder = ConvEncoder(1, (4, 6))
    head = Classifier((6, 3, 3), 3)
    with pytest.raises(InputError, match="no decoder"):
        Joint()(Autoencoder(encoder, heads={"digit": head}), batch, 0)
    plain: dict[str, nn.Module] = {"a": head, "b": nn.Flatten()}
    for heads, complaint in (({}, "with a head, got none"), (plain, "one of several heads needs .* b is a Flatten")):
        with pytest.raises(InputError, match=complaint):
            Joint()(Autoencoder(encoder, DeconvDecoder(1, (6, 4)), heads=heads), batch, 0)


def gaussian_model() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Gaussian((6, 3, 3), 5), likelihood=BernoulliLikelihood()
    )


def test_joint_equals_negative_elbo(batch: Batch) -> None:
    """-ELBO = -log p(x|z) + KL(q(z|x) || p(z)), both in nats per image, from torch.distributions."""
    model = gaussian_model()
    torch.manual_seed(1)
    loss = Joint(reconstruction=1.0, beta=1.0, classification=0.0)(model, batch, 0)
    torch.manual_seed(1)
    code = model.encode(batch.images)
    pixels = model.decode_params(code.z, batch.images.shape[-2:])
    likelihood = Bernoulli(logits=pixels, validate_args=False).log_prob(batch.images).sum((1, 2, 3))
    assert code.posterior is not None
    divergence = kl_divergence(code.posterior, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(loss.total, (divergence - likelihood).mean())
    assert {"rate", "bernoulli", "active_units"} <= loss.terms.keys()


def test_joint_rate_warm_up(batch: Batch) -> None:
    model, batch = (
        gaussian_model().double(),
        Batch(batch.images.double(), batch.labels),
    )  # the terms differ in scale
    objective = Joint(reconstruction=1.0, beta=2.0, weight_schedule=WeightSchedule(beta=(0.0, 10)), classification=0.0)
    costs = []
    for step in (0, 4, 9, 50):
        torch.manual_seed(1)
        loss = objective(model, batch, step)
        costs.append(((loss.total - loss.terms["bernoulli"]) / loss.terms["rate"]).item())
    assert costs == pytest.approx([0.2, 1.0, 2.0, 2.0], rel=1e-4)


def test_joint_free_bits_below_threshold_have_no_cost(batch: Batch) -> None:
    model = gaussian_model()
    torch.manual_seed(1)
    loss = Joint(reconstruction=1.0, beta=1.0, free_bits=0.02, classification=0.0)(model, batch, 0)
    posterior = model.encode(batch.images).posterior
    assert posterior is not None
    rates = kl_divergence(posterior, Normal(0.0, 1.0)).mean(0).tolist()
    assert min(rates) < 0.02 < max(rates)
    assert (loss.total - loss.terms["bernoulli"]).item() == pytest.approx(sum(max(0.02, r) for r in rates), rel=1e-3)
    with pytest.raises(InputError, match="free_bits needs a rate of each latent"):
        Joint(beta=1.0, free_bits=0.1, classification=0.0)(
            Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), likelihood=BernoulliLikelihood()), batch, 0
        )


def test_joint_masked_loss_is_on_hidden_pixels(model: Autoencoder, batch: Batch) -> None:
    torch.manual_seed(1)
    loss = Joint(corruption=PatchMask(2, 0.5), classification=0.0)(model, batch, 0)
    torch.manual_seed(1)
    shown, mask = PatchMask(2, 0.5)(batch.images)
    errors = (model(shown).reconstruction - batch.images).square()
    torch.testing.assert_close(loss.terms["mse"], errors[mask].mean())


def test_weight_schedule_is_linear() -> None:
    objective = Joint(reconstruction=0.0, classification=2.0, weight_schedule=WeightSchedule(reconstruction=(8.0, 4)))
    assert [objective.weight("reconstruction", step) for step in (0, 1, 3, 9)] == [6.0, 4.0, 0.0, 0.0]
    assert objective.weight("classification", 0) == 2.0
    with pytest.raises(InputError, match=r"WeightSchedule\.beta\[1\] must be positive, got 0"):
        WeightSchedule(beta=(0.0, 0))
    with pytest.raises(InputError, match=r"Joint\.beta is in nats: .* not mse"):
        Joint(weight_schedule=WeightSchedule(beta=(1.0, 10))).check_likelihood("mse")


@pytest.mark.slow
def test_uncertainty_weighting_converges_to_homoscedastic_weights(model: Autoencoder, batch: Batch) -> None:
    """With fixed losses the weights tend to 1 / (2 L) (Kendall et al. 2018, equation 10), from their initial values."""
    objective = UncertaintyWeighting(Joint(reconstruction=20.0, classification=0.5))
    optimizer = torch.optim.Adam(objective.parameters(), 0.1)
    first = objective(model, batch, 0)
    expected = 20 * first.terms["mse"] + 0.5 * first.terms["cross_entropy"] - 0.5 * math.log(20 * 0.5)
    torch.testing.assert_close(first.total, expected)
    assert (first.terms["weight/reconstruction"].item(), first.terms["weight/classification"].item()) == pytest.approx(
        (20, 0.5)
    )
    for _ in range(250):
        optimizer.zero_grad()
        objective(model, batch, 0).total.backward()
        optimizer.step()
    last = objective(model, batch, 0)
    for weight, term in (("reconstruction", "mse"), ("classification", "cross_entropy")):
        assert last.terms[f"weight/{weight}"].item() == pytest.approx(0.5 / last.terms[term].item(), rel=0.01)
    with pytest.raises(InputError, match="neither may begin with 0"):
        UncertaintyWeighting(Joint(classification=0.0))
    with pytest.raises(InputError, match="have no weight_schedule"):
        UncertaintyWeighting(Joint(weight_schedule=WeightSchedule(reconstruction=(0.0, 9))))
