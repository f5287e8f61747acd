import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ae import (
    Autoencoder,
    ConvEncoder,
    DeconvDecoder,
    Gaussian,
    Generation,
    ImageSet,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Splits,
    evaluate,
    fit,
    load,
)
from ae.evaluation.sampling import log_likelihoods
from ae.models.likelihoods import BernoulliLikelihood
from tests.helpers.tracked import job


def test_report_reads_test_set_once_after_training(digits: Splits, tmp_path: Path) -> None:
    reads: list[bool] = []

    def test() -> ImageSet:
        reads.append((tmp_path / "run/model.safetensors").exists())
        assert digits.test is not None
        return digits.test()

    job(replace(digits, test=test), RunConfig(dir=tmp_path / "run", wandb="disabled"))
    assert reads == [True]


def test_report_tests_the_saved_model(digits: Splits, tmp_path: Path) -> None:
    """A report changes no statistics of batch norm and no codebook."""
    torch.manual_seed(0)
    bottleneck = Gaussian((6, 7, 7), 3)
    model = Autoencoder(ConvEncoder(1, (4, 6), norm=True), DeconvDecoder(1, (6, 4), norm=True), bottleneck)
    model.likelihood = BernoulliLikelihood()
    objective = Joint(reconstruction=1.0, beta=1.0, classification=0.0)
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        results = fit(model, objective, digits, Recipe(steps=3, batch_size=64), run)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        Generation(components=2, likelihood_samples=2, likelihood_images=5).report(model, digits, results, run)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert digits.test is not None
    assert evaluate(load(tmp_path / "run"), digits.test())["mse"] == pytest.approx(summary["test/mse"], rel=1e-6)
    assert {"test/frechet/prior", "test/frechet/mixture", "test/log_likelihood"} <= set(summary)


def test_generation_spreads_likelihood_images_over_test_set(digits: Splits, tmp_path: Path) -> None:
    """The first half of MNIST's test digits is easier: the first images alone would overrate a model."""
    model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), Gaussian((6, 7, 7), 3)).eval()
    model.likelihood = BernoulliLikelihood()
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        Generation(components=0, likelihood_samples=50, likelihood_images=8).report(model, digits, {}, run)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert digits.test is not None
    values = log_likelihoods(model, digits.test().select(slice(None, None, 16)), 50)
    assert len(values) == 8
    assert summary["test/log_likelihood"] == pytest.approx(values.mean().item(), rel=1e-3)
    assert summary["test/log_likelihood_error"] == pytest.approx(values.std(correction=0).item() / 8**0.5, rel=0.02)
