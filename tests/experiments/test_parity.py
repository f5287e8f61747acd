"""Losses equal Pythae's, an optional package, on the same weights, images and noise, up to stated factors."""

from typing import Any

import pytest
import torch
from einops import rearrange, repeat

from ae import (
    IWAE,
    MMD,
    Autoencoder,
    Batch,
    BetaTC,
    ConvEncoder,
    DeconvDecoder,
    Dense,
    Gaussian,
    Joint,
    VectorQuantizer,
)
from ae.models.likelihoods import BernoulliLikelihood, SquaredError

models = pytest.importorskip("pythae.models")
LATENT, PIXELS = 5, 120
NATS = Joint(reconstruction=1.0, classification=0.0)


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.rand(6, 1, 10, 12), torch.full((6,), -1))


def make_model(bottleneck: Any = Gaussian, likelihood: Any = None) -> Autoencoder:
    torch.manual_seed(0)
    likelihood = likelihood or BernoulliLikelihood()
    code = bottleneck((6, 3, 3), LATENT)
    return Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), code, likelihood=likelihood)


def theirs(name: str, **options: Any) -> Any:
    config = getattr(models, f"{name}_Config" if "_" in name else f"{name}Config")(
        input_dim=(1, 10, 12), latent_dim=LATENT, **options
    )
    return getattr(models, name)(config)


def encoded(model: Autoencoder, batch: Batch) -> dict[str, Any]:
    """Return the arguments of Pythae's losses from our model, with the noise of seed 1."""
    torch.manual_seed(1)
    code = model.encode(batch.images)
    assert code.posterior is not None
    return {
        "recon_x": model.decode(code.z, (10, 12)),
        "x": batch.images,
        "mu": code.mean,
        "log_var": 2 * code.posterior.stddev.log(),
        "z": code.z,
    }


def test_joint_equals_the_elbo_of_pythae(batch: Batch) -> None:
    model = make_model()
    loss, nll, rate = theirs("VAE", reconstruction_loss="bce").loss_function(**encoded(model, batch))
    torch.manual_seed(1)
    ours = Joint(reconstruction=1.0, beta=1.0, classification=0.0)(model, batch, 0)
    torch.testing.assert_close(ours.total, loss)
    torch.testing.assert_close(ours.terms["bernoulli"], nll)
    torch.testing.assert_close(ours.terms["rate"], rate)


def test_joint_mse_is_pythaes_times_2_over_the_pixels(batch: Batch) -> None:
    model = make_model(likelihood=SquaredError())
    _, half_sum, _ = theirs("VAE", reconstruction_loss="mse").loss_function(**encoded(model, batch))
    torch.manual_seed(1)
    ours = Joint(classification=0.0)(model, batch, 0)
    torch.testing.assert_close(ours.terms["mse"], 2 / PIXELS * half_sum)


def test_iwae_has_the_gradient_of_pythae(batch: Batch) -> None:
    """Pythae returns the weighted mean of log-weights (Burda et al. 2016, equation 14), ours the bound (equation 8)."""
    model, samples = make_model(), 4
    torch.manual_seed(1)
    IWAE(samples)(model, batch, 0).total.backward()
    ours = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    torch.manual_seed(1)
    code = model.encode(batch.images)
    assert code.posterior is not None
    z = code.mean + code.posterior.stddev * torch.randn(samples, 6, LATENT)
    pixels = model.decode(rearrange(z, "k b d -> (k b) d"), (10, 12))
    loss, _, _ = theirs("IWAE", reconstruction_loss="bce", number_samples=samples).loss_function(
        rearrange(pixels, "(k b) c h w -> b k (c h w)", k=samples),
        batch.images,
        repeat(code.mean, "b d -> b k d", k=samples),
        repeat(2 * code.posterior.stddev.log(), "b d -> b k d", k=samples),
        rearrange(z, "k b d -> b k d"),
    )
    loss.backward()
    for mine, parameter in zip(ours, [p for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-3, atol=1e-4)


def test_beta_tc_equals_pythae(batch: Batch) -> None:
    model = make_model()
    peer = theirs("BetaTCVAE", reconstruction_loss="bce", alpha=1.0, beta=6.0, gamma=1.0, use_mss=False)
    loss, _, _ = peer.loss_function(**encoded(model, batch), dataset_size=100)
    torch.manual_seed(1)
    torch.testing.assert_close(BetaTC(images=100, beta=6.0, joint=NATS)(model, batch, 0).total, loss)


def test_mmd_equals_pythae_with_squared_error_summed_over_pixels(batch: Batch) -> None:
    model = make_model(Dense, SquaredError())
    torch.manual_seed(1)
    ours = MMD(weight=3.0)(model, batch, 0)
    code = model.encode(batch.images)
    scales = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
    peer = theirs("WAE_MMD", kernel_choice="imq", kernel_bandwidth=1.0, scales=scales, reconstruction_loss_scale=1.0)
    peer.scales = scales
    torch.manual_seed(1)
    _, error, mmd = peer.loss_function(model.decode(code.z, (10, 12)), batch.images, code.z, torch.randn_like(code.z))
    torch.testing.assert_close(ours.terms["mmd"], mmd)
    torch.testing.assert_close(ours.terms["mse"], error / PIXELS)


def test_vector_quantizer_equals_pythae_in_evaluation() -> None:
    from pythae.models.vq_vae.vq_vae_utils import QuantizerEMA

    torch.manual_seed(0)
    features, ours = torch.randn(3, 4, 5, 6), VectorQuantizer(4, codebook_size=7, commitment=0.25).eval()
    config = models.VQVAEConfig(
        input_dim=(1, 10, 12), latent_dim=4, num_embeddings=7, commitment_loss_factor=0.25, use_ema=True, decay=0.99
    )
    config.embedding_dim = 4
    peer = QuantizerEMA(config).eval()
    peer.embeddings.data.copy_(ours.codebook.T if peer.embeddings.shape == (4, 7) else ours.codebook)
    output = peer(rearrange(features, "b c h w -> b h w c"))
    code = ours(features)
    torch.testing.assert_close(code.z, output.quantized_vector)
    assert torch.equal(ours.indices(features), output.quantized_indices.squeeze(1))
    torch.testing.assert_close(code.aux["commitment"].mean(), output.loss)
