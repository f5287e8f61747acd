"""Wrapped, shared and parametrised modules, half precision, and inputs of other kinds."""

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from ae import (
    Autoencoder,
    Batch,
    Classifier,
    ConvEncoder,
    DeconvDecoder,
    Gaussian,
    InputError,
    Joint,
    Run,
    RunConfig,
    Splits,
    evaluate,
    fit,
    load,
    save_weights,
)
from ae.functional import bernoulli_nll, cross_entropy, gaussian_nll, squared_error
from ae.models.likelihoods import BernoulliLikelihood
from tests.helpers import ROOT
from tests.helpers.small import SHORT, autoencoder, changed_tensors, copied_state


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("loss", [squared_error, bernoulli_nll, gaussian_nll])
def test_losses_broadcast_only_a_mask_of_one_channel(loss: Callable[..., Tensor]) -> None:
    target = torch.rand(2, 3, 4, 5)
    loss(target, target, mask=torch.ones(2, 1, 4, 5, dtype=torch.bool))
    for shape in [(2, 1, 4, 5), (1, 3, 4, 5), (2, 4, 5), (3, 4, 5), (2, 3, 4, 1)]:
        with pytest.raises(InputError, match="output and target must have the same shape"):
            loss(torch.rand(shape), target)
        if shape != (2, 1, 4, 5):
            with pytest.raises(InputError, match="the mask must be bool"):
                loss(target, target, mask=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(InputError, match="the mask must be bool"):
        loss(target, target, mask=torch.ones(2, 1, 4, 5))
    with pytest.raises(InputError, match=r"must be floating-point, in \[0, 1\], got uint8"):
        loss(target, (target * 255).to(torch.uint8))


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("logits", "labels", "complaint"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-2, 0]), "got -2 to 0"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "labels must be int64, got float32"),
        (torch.zeros(2, 3, 1), torch.tensor([0, 1]), r"logits \[2, 3, 1\]"),
        (torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.long), r"labels \[2, 1\]"),
    ],
)
def test_cross_entropy_refuses_wrong_shapes_and_labels(logits: Tensor, labels: Tensor, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        cross_entropy(logits, labels)


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), nn.DataParallel])
def test_fit_unwraps_the_model(few: Splits, tmp_path: Path, wrap: Callable[..., Any]) -> None:
    plain, model = autoencoder(), autoencoder()
    wrapped = wrap(model)
    expected = fit(plain, Joint(), few, SHORT)
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        results = fit(wrapped, Joint(), few, SHORT, run)
    assert results["val/mse"] == expected["val/mse"]
    assert evaluate(wrapped, few.train)["mse"] == evaluate(plain, few.train)["mse"]
    assert changed_tensors(copied_state(plain), load(tmp_path / "run")) == []


def test_save_weights_of_compiled_submodules_have_plain_names(tmp_path: Path) -> None:
    model, other = autoencoder(), autoencoder()
    other.encoder = torch.compile(copy.deepcopy(model.encoder), backend="eager")  # type: ignore[assignment]
    save_weights(tmp_path / "a", model)
    save_weights(tmp_path / "b", other)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_load_weights_reads_names_with_prefixes_of_wrappers(tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import save_file

    from ae import load_weights

    model, other = autoencoder(), autoencoder()
    nn.init.zeros_(other.encoder.stages[0].conv.weight)  # type: ignore[index, union-attr]
    save_file({prefix + name: tensor for name, tensor in model.state_dict().items()}, tmp_path / "a")
    load_weights(tmp_path / "a", other)
    assert changed_tensors(copied_state(model), other) == []
    load_weights(tmp_path / "a", other.encoder, part="encoder")


def test_shared_weights_train_save_load_and_resume(few: Splits, tmp_path: Path) -> None:
    def tied() -> Autoencoder:
        model = autoencoder(norm=False)
        model.decoder.stages[-1].weight = model.encoder.stages[0].conv.weight  # type: ignore[union-attr, index]
        return model

    whole, first, second = tied(), tied(), tied()
    fit(whole, Joint(), few, replace(SHORT, steps=3))
    for model, where, steps in [(first, {"dir": tmp_path / "run"}, 1), (second, {"resume": tmp_path / "run"}, 3)]:
        with Run("test", RunConfig(wandb="disabled", **where)) as run:  # type: ignore[arg-type]
            fit(model, Joint(), few, replace(SHORT, steps=steps), run)
    assert changed_tensors(copied_state(whole), second) == []
    loaded = load(tmp_path / "run")
    assert changed_tensors(copied_state(whole), loaded) == []
    assert loaded.decoder.stages[-1].weight is loaded.encoder.stages[0].conv.weight  # type: ignore[union-attr, index]


def test_parametrized_weights_train_save_and_load(few: Splits, tmp_path: Path) -> None:
    def parametrized() -> ConvEncoder:
        encoder = ConvEncoder(1, (4, 6))
        spectral_norm(encoder.stages[0].conv)  # type: ignore[arg-type]
        weight_norm(encoder.stages[1].conv)  # type: ignore[arg-type]
        return encoder

    model = autoencoder(norm=False)
    model.encoder = parametrized()
    fit(model, Joint(), few, SHORT)
    save_weights(tmp_path / "a", model)
    with pytest.raises(InputError, match="modules with parametrizations are given as they were built"):
        load(tmp_path / "a")
    assert changed_tensors(copied_state(model), load(tmp_path / "a", encoder=parametrized())) == []


def test_bf16_keeps_code_rate_logits_and_losses_in_float32() -> None:
    torch.manual_seed(0)
    bottleneck, head = Gaussian((6, 7, 7), 5), Classifier((5,), 10)
    model = Autoencoder(
        ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), bottleneck, {"digit": head}, BernoulliLikelihood()
    )
    batch = Batch(torch.rand(4, 1, 28, 28), torch.arange(4))
    features = torch.rand(4, 6, 7, 7)
    exact = bottleneck(features).rate
    with torch.autocast("cpu", torch.bfloat16):
        output, loss = model(batch.images), Joint(beta=1.0)(model, batch, 0)
        torch.testing.assert_close(bottleneck(features).rate, exact, rtol=1e-6, atol=1e-6)
    tensors = [output.params, output.predictions["digit"], output.code.rate, output.code.posterior.mean, loss.total]
    assert {tensor.dtype for tensor in (*tensors, *loss.terms.values())} == {torch.float32}


@pytest.mark.slow
def test_gaussian_compiles_without_a_graph_break() -> None:
    """Runs in a process without run-time checks of shapes, which break every graph."""
    script = (
        "import ae, torch; bottleneck = ae.Gaussian((3, 2, 2), 2); "
        "explained = torch._dynamo.explain(lambda x: bottleneck(x).rate.sum())(torch.rand(4, 3, 2, 2)); "
        "print(explained.graph_break_count)"
    )
    completed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "0"


@pytest.mark.usefixtures("unhooked")
def test_encoders_refuse_numpy_arrays() -> None:
    with pytest.raises(
        InputError, match=r"must be a torch tensor \[b 1 h w\], got ndarray: torch.from_numpy makes one"
    ):
        ConvEncoder()(np.zeros((2, 1, 8, 8), np.float32))
