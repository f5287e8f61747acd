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
from tests.tracked import job


def test_the_test_set_is_read_once_after_the_training(digits: Splits, tmp_path: Path) -> None:
    reads: list[bool] = []

    def test() -> ImageSet:
        reads.append((tmp_path / "run/model.safetensors").exists())
        assert digits.test is not None
        return digits.test()

    job(replace(digits, test=test), RunConfig(dir=tmp_path / "run", wandb="disabled"))
    assert reads == [True]


def test_the_model_that_is_tested_is_the_one_that_is_saved(digits: Splits, tmp_path: Path) -> None:
    """Nothing that a report looks at, one image or many, changes batch norm or a codebook."""
    torch.manual_seed(0)
    bottleneck = Gaussian((6, 7, 7), 3)
    model = Autoencoder(ConvEncoder(1, (4, 6), norm=True), DeconvDecoder(1, (6, 4), norm=True), bottleneck)
    objective = Joint("bernoulli", reconstruction=1.0, rate=1.0, classification=0.0)
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
