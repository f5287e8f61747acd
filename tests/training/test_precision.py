"""The choice of the precision, and its record."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ae import Autoencoder, Classifier, ConvEncoder, InputError, Joint, Loss, Recipe, Run, RunConfig, Splits, fit
from ae.runs.checkpoint import load_state, save_state
from ae.runs.folder import read_config
from ae.training.precision import Precision, chosen_precision, emulation_warning, has_native_bf16
from tests.helpers.small import autoencoder
from tests.helpers.wandb_server import WandbServer

CPU = torch.device("cpu")
AUTO = Recipe(steps=2, batch_size=32, schedule="constant", precision="auto")


@dataclass(frozen=True)
class Config:
    """A recipe at its usual place."""

    recipe: Recipe = AUTO


@pytest.fixture
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ae.training.precision.has_native_bf16", lambda _: request.param)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"bf16": True, "neon": True}, True),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
    ],
)
def test_native_bf16_is_read_from_the_processors_capabilities(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert has_native_bf16(CPU) is expected
    assert has_native_bf16(torch.device("mps")) is None


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32"), (None, "fp32")], indirect=["native"])
@pytest.mark.usefixtures("native")
def test_chosen_precision_is_bf16_where_native_and_large_enough(chosen: str, digits: Splits) -> None:
    batch = digits.train.batch(slice(0, 4))
    head = Classifier((64, 7, 7), 10)
    model = Autoencoder(ConvEncoder(1, (32, 64)), heads={"digit": head})
    images = 2**26 // operations(model) + 1
    assert chosen_precision(model, batch, images) == chosen
    assert chosen_precision(model, batch, images - 2) == "fp32"
    assert chosen_precision(nn.Linear(3, 3), batch, 10**6) == "fp32"


def operations(model: Autoencoder) -> int:
    """Multiplications and additions of the forward pass of a digit, by hand; biases do not count."""
    convolutions = 28 * 28 * 9 * 1 * 32 + 14 * 14 * 9 * 32 * 64
    head = model.heads["digit"]
    layers = sum(layer.weight.numel() for layer in head.modules() if isinstance(layer, nn.Linear))
    return 2 * (convolutions + layers)


@pytest.mark.parametrize("native", [True, False], indirect=True)
@pytest.mark.usefixtures("native")
def test_fit_auto_equals_the_precision_that_it_chose(
    digits: Splits,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run's config.json says what it was, and a resumed run keeps it on a machine that would choose another."""
    monkeypatch.setattr("ae.training.precision._LEAST", 1)
    is_native = request.node.callspec.params["native"]
    precision: Precision = "bf16" if is_native else "fp32"
    expected = trained(digits, replace(AUTO, steps=4, precision=precision))
    where = RunConfig(dir=tmp_path / "run", wandb="disabled")
    with Run("test", where, Config()) as run:
        trained(digits, AUTO, run)
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["recipe"]["precision"] == precision
    monkeypatch.setattr("ae.training.precision.has_native_bf16", lambda _: not is_native)
    longer = replace(AUTO, steps=4)
    capsys.readouterr()
    with Run("test", RunConfig(resume=tmp_path / "run", wandb="disabled"), Config(longer)) as run:
        resumed = trained(digits, longer, run)
    assert "recipe.precision" not in capsys.readouterr().err  # it has not changed
    assert "recipe.precision" not in read_config(tmp_path / "run")["changes"][0]
    for ours, theirs in zip(resumed.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["recipe"]["precision"] == precision
    other = replace(longer, precision="fp32" if is_native else "bf16")
    with pytest.raises(InputError, match=r"can't be continued with another recipe\.precision"):
        Run("test", RunConfig(resume=tmp_path / "run", wandb="disabled"), Config(other))


@pytest.mark.parametrize("native", [True], indirect=True)
@pytest.mark.usefixtures("native")
def test_state_of_version_0_1_is_continued_in_fp32(
    digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say its precision."""
    monkeypatch.setattr("ae.training.precision._LEAST", 1)
    fp32 = replace(AUTO, precision="fp32")
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled"), Config(fp32)) as run:
        trained(digits, fp32, run)
    state = load_state(tmp_path / "run/state.pt")
    assert state is not None
    assert state["position"].pop("precision") == "fp32"
    save_state(tmp_path / "run/state.pt", state)
    longer = replace(AUTO, steps=4)
    with Run("test", RunConfig(resume=tmp_path / "run", wandb="disabled"), Config(longer)) as run:
        resumed = trained(digits, longer, run)
    expected = trained(digits, replace(fp32, steps=4))
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(resumed.parameters(), expected.parameters(), strict=True)
    )


def trained(data: Splits, recipe: Recipe, run: Run | None = None) -> Autoencoder:
    torch.manual_seed(0)
    model = autoencoder()
    fit(model, Joint(), data, recipe, run)
    return model


@pytest.mark.parametrize("native", [True], indirect=True)
@pytest.mark.usefixtures("native")
def test_wandb_has_the_precision_that_was_chosen(
    digits: Splits, tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ae.training.precision._LEAST", 1)
    with Run("test", RunConfig(dir=tmp_path / "run"), Config()) as run:
        trained(digits, AUTO, run)
    (stored,) = server.store.runs.values()
    assert stored.config["recipe"]["value"]["precision"] == "bf16"


@pytest.mark.parametrize("config", [None, {"recipe": 3}, {"other": {"precision": "auto"}}])
def test_run_settles_only_a_setting_that_the_configuration_has(config: Any, digits: Splits, tmp_path: Path) -> None:
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled"), config) as run:
        trained(digits, AUTO, run)
    assert json.loads((tmp_path / "run/config.json").read_text())["config"] == (config or {})


@pytest.mark.parametrize(("native", "warned"), [(False, 1), (True, 0), (None, 0)], indirect=["native"])
@pytest.mark.usefixtures("native")
def test_fit_warns_of_emulated_bf16(warned: int, digits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    for precision in ("bf16", "fp32", "auto"):
        trained(digits, replace(AUTO, precision=precision))
        expected = warned if precision == "bf16" else 0
        assert capsys.readouterr().err.count("bf16 is emulated on this device") == expected
    assert emulation_warning(CPU, "fp32") is None


def test_auto_is_fp32_for_a_model_that_is_no_autoencoder(digits: Splits) -> None:
    dtypes = set()

    def objective(model: nn.Module, batch: Any, step: int) -> Loss:
        output = model(batch.images.flatten(1))
        dtypes.add(output.dtype)
        return Loss(output.square().mean(), {})

    fit(nn.Linear(784, 4), objective, digits, AUTO)
    assert torch.float32 in dtypes
    assert torch.bfloat16 not in dtypes
