"""Warnings of trivial solutions, and none for a model that has learned something."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ae import (
    FSQ,
    Autoencoder,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Images,
    Joint,
    Recipe,
    Run,
    RunConfig,
    Splits,
    fit,
    report,
)
from ae.evaluation.collapse import collapse_warnings
from tests.helpers.small import autoencoder


def trained(digits: Splits) -> Autoencoder:
    model = autoencoder()
    fit(model, Joint(), digits, Recipe(steps=60, batch_size=32, optimizer="adamw", lr=0.01))
    return model


def constant(model: Autoencoder, part: str) -> Autoencoder:
    """Give a part of the model an output that does not depend on its input."""
    last = [
        module for module in model.get_submodule(part).modules() if isinstance(module, nn.Linear | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        last[-1].weight.zero_()
        last[-1].bias[0] += 0.1  # type: ignore[index]
    return model


def test_a_model_that_learned_has_no_warning(digits: Splits) -> None:
    assert collapse_warnings(trained(digits), digits.train) == []


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            "decoder",
            r"^the reconstructions of all images are the same \(mse\): the training was too short, or its learn",
        ),
        ("heads.digit", r"^the head digit predicts class \d for all images: the training was too short"),
    ],
)
def test_constant_outputs_are_warned_of(part: str, message: str, digits: Splits) -> None:
    (warning,) = collapse_warnings(constant(trained(digits), part), digits.train)
    assert re.match(message, warning)
    assert "\n" not in warning


def test_one_code_everywhere_is_warned_of(digits: Splits) -> None:
    model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), FSQ(6, (3, 3)))
    with torch.no_grad():
        for parameter in model.bottleneck.parameters():
            parameter.zero_()
    assert any("the same code everywhere" in warning for warning in collapse_warnings(model, digits.train))


def test_one_image_one_class_and_no_labels_are_no_collapse(digits: Splits) -> None:
    model = constant(trained(digits), "heads.digit")
    assert collapse_warnings(model, digits.train.select(slice(1))) == []
    pixels = digits.train.batch(slice(20)).images.mul(255).byte()
    for labels in (torch.full((20,), 3), torch.full((20,), -1)):
        assert collapse_warnings(model, Images(pixels, labels, tuple("0123456789"))) == []


def test_report_prints_the_warnings(digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training of two steps at a tiny learning rate: black or grey images, which nothing else tells."""
    torch.manual_seed(0)
    head = {"digit": Classifier((64, 7, 7), 10)}
    model = Autoencoder(ConvEncoder(), DeconvDecoder(), heads=head)
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        results: Any = fit(model, Joint(), digits, Recipe(steps=2, batch_size=32, lr=1e-6), run)
        report(model, digits, results, run)
    assert "the reconstructions of all images are the same (mse)" in capsys.readouterr().err
