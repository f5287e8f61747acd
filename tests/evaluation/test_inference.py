"""The context of evaluation, and codes of a whole data set."""

import pytest
import torch

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Images
from ae.evaluation.inference import encode_batches, evaluating
from ae.utils.validation import checks_range


@pytest.fixture
def model() -> Autoencoder:
    return Autoencoder(ConvEncoder(3, (4, 6)), DeconvDecoder(3, (6, 4)), heads={"digit": Classifier((6, 3, 4), 3)})


def test_evaluating_restores_the_mode_of_every_module(model: Autoencoder) -> None:
    model.train()
    model.encoder.eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_evaluating_restores_gradients_and_range_checks_after_an_error(model: Autoencoder) -> None:
    def fail() -> None:
        with evaluating(model):
            assert not torch.is_grad_enabled()
            assert not checks_range()
            raise KeyError

    model.train()
    with pytest.raises(KeyError):
        fail()
    assert torch.is_grad_enabled()
    assert checks_range()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("fork_rng", [True, False])
def test_evaluating_restores_random_generators_with_fork_rng(model: Autoencoder, fork_rng: bool) -> None:
    before = torch.get_rng_state()
    with evaluating(model, fork_rng=fork_rng):
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), before) == fork_rng


def test_encode_batches_reads_codes_in_order(model: Autoencoder, noise: Images) -> None:
    parts = list(encode_batches(model, noise, lambda batch, code: (batch.labels, code.mean), batch_size=6))
    expected = model.eval().encode(noise.batch(slice(None)).images).mean
    torch.testing.assert_close(torch.cat([codes for _, codes in parts]), expected)
    assert torch.equal(torch.cat([labels for labels, _ in parts]), noise.labels)


def test_encode_batches_leaves_no_context_when_stopped_early(model: Autoencoder, noise: Images) -> None:
    model.train()
    batches = encode_batches(model, noise, lambda _, code: code.mean, batch_size=6)
    assert not next(batches).requires_grad
    assert torch.is_grad_enabled()
    assert all(module.training for module in model.modules())
