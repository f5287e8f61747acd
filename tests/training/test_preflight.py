"""Checks before the first step of training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ae import (
    Autoencoder,
    Batch,
    ConvEncoder,
    DeconvDecoder,
    InputError,
    Joint,
    Loss,
    Splits,
    fit,
    save_weights,
)
from tests.helpers.small import SHORT, autoencoder


@pytest.mark.parametrize(("model", "name"), [(nn.Linear(1, 1), "a Linear"), (Autoencoder, "the class Autoencoder")])
@pytest.mark.usefixtures("unhooked")
def test_fit_refuses_other_modules(few: Splits, model: Any, name: str) -> None:
    with pytest.raises(InputError, match=rf"fit trains an Autoencoder\(encoder, decoder, ...\), got {name}"):
        fit(model, Joint(), few, SHORT)


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = DeconvDecoder(1, (6, 4))

    def forward(self, features: Tensor) -> Tensor:
        return self.inner(features)[:, 0]


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("decoder", "complaint"),
    [
        (lambda: DeconvDecoder(3, (6, 4)), r"the same shape, got \[1, 3, 28, 28\] and \[1, 1, 28, 28\]"),
        (Squeezed, r"the decoder must give parameters of the pixels \[b c h w\], gave \[1, 28, 28\]"),
    ],
)
def test_fit_refuses_a_decoder_of_another_shape(few: Splits, decoder: Any, complaint: str) -> None:
    model = autoencoder()
    model.decoder = decoder()
    with pytest.raises(InputError, match=complaint):
        fit(model, Joint(), few, SHORT)


def test_fit_refuses_a_head_with_fewer_logits_than_labels(few: Splits) -> None:
    with pytest.raises(InputError, match="the head digit takes labels 0 to 4; there is a label 9"):
        fit(autoencoder(classes=5), Joint(), few, SHORT)


def test_fit_initialises_lazy_modules(few: Splits, tmp_path: Path) -> None:
    model = Autoencoder(ConvEncoder(1, (4,)), heads={"digit": nn.Sequential(nn.Flatten(), nn.LazyLinear(10))})
    with pytest.raises(InputError, match="is of a lazy module"):
        save_weights(tmp_path / "a", model)
    fit(model, Joint(reconstruction=0.0), few, SHORT)
    assert model.heads["digit"][1].weight.shape == (10, 784)  # type: ignore[index]


@pytest.mark.parametrize(
    ("encoder", "fits"), [(ConvEncoder(1, (4,) * 6, True), False), (ConvEncoder(1, (4,), True), True)]
)
def test_fit_refuses_a_last_batch_of_one_value_per_channel(digits: Splits, encoder: Any, fits: bool) -> None:
    model = Autoencoder(encoder, heads={"digit": nn.Sequential(nn.Flatten(), nn.LazyLinear(10))})
    data, recipe = Splits(digits.train.select(slice(17))), replace(SHORT, steps=3)
    if fits:
        fit(model, Joint(reconstruction=0.0), data, recipe)
        return
    with pytest.raises(InputError, match=r"batch norm in encoder\.stages\.5\.norm .* Recipe\.batch_size"):
        fit(model, Joint(reconstruction=0.0), data, recipe)
    fit(model, Joint(reconstruction=0.0), data, replace(SHORT, steps=1))


def returning(value: Any) -> Any:
    def objective(model: Autoencoder, batch: Batch, step: int) -> Any:
        loss = Joint()(model, batch, step)
        return value(loss)

    return objective


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("objective", "complaint"),
    [
        (returning(lambda loss: loss.total), r"must give a Loss\(total, terms\), gave a tensor \[\]"),
        (returning(lambda loss: 1.0), "gave float 1.0"),
        (returning(lambda loss: {"loss": loss.total}), "gave dict"),
        (returning(lambda loss: None), "gave NoneType None"),
        (
            returning(lambda loss: Loss(loss.total[None], {})),
            r"total must be .* without dimensions, got a tensor \[1\]",
        ),
        (returning(lambda loss: Loss(loss.total.detach(), {})), "total has no gradient"),
        (returning(lambda loss: Loss(loss.total, dict[str, Any](a=1.0))), "term a must be a tensor .* got float 1.0"),
        (returning(lambda loss: Loss(loss.total, {"a": torch.ones(2)})), r"term a must be .* got a tensor \[2\]"),
        (returning(lambda loss: Loss(loss.total, {}, {"b": torch.ones(())})), "got b, which is none of its terms"),
        (lambda model, batch: None, r"called as objective\(model, batch, step\), got one that takes \(model, batch\)"),
        (Joint, r"give an instance, Joint\(...\), instead of the class"),
        (nn.Module(), "got Module, which can't be called"),
        ("joint", "got str, which can't be called"),
    ],
)
def test_fit_refuses_an_objective_that_breaks_the_contract(few: Splits, objective: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        fit(autoencoder(), objective, few, SHORT)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_fit_reports_a_missing_compiler(few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with (
        config.patch({"fx_graph_cache": False, "cpp.cxx": ("/nonexistent/c++",)}),
        pytest.raises(InputError, match=r"Recipe\.compile failed: .*ompiler") as error,
    ):
        fit(autoencoder(norm=False), Joint(), few, replace(SHORT, compile=True))
    assert "\n" not in str(error.value)
