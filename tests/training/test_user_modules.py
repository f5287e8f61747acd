"""Models, objectives and optimisers as researchers bring them."""

import copy
import json
import math
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
    Consistency,
    ConvEncoder,
    DeconvDecoder,
    Gaussian,
    InputError,
    Joint,
    Loss,
    Recipe,
    Run,
    RunConfig,
    Splits,
    evaluate,
    fit,
    load,
    save_weights,
)
from ae.functional import bernoulli_nll, cross_entropy, gaussian_nll, squared_error
from ae.models.freezing import TrainingMode
from ae.training.fit import rate_ratios, set_learning_rate
from tests.helpers import ROOT

QUICK = Recipe(steps=2, batch_size=16, lr=0.01, schedule="constant")


@pytest.fixture
def few(digits: Splits) -> Splits:
    return Splits(digits.train.select(slice(32)), digits.train.select(slice(32, 48)))


def make(norm: bool = True, channels: int = 1, classes: int = 10) -> Autoencoder:
    torch.manual_seed(0)
    encoder, decoder = ConvEncoder(1, (4, 6), norm), DeconvDecoder(channels, (6, 4), norm)
    return Autoencoder(encoder, decoder, heads={"digit": Classifier((6, 7, 7), classes, hidden=8)})


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> list[str]:
    return [name for name, tensor in module.state_dict().items() if not torch.equal(before[name], tensor)]


# What is frozen


@pytest.mark.parametrize("how", ["eval", "requires_grad"])
def test_fit_leaves_a_frozen_encoder_as_it_was(few: Splits, how: str) -> None:
    model = make()
    if how == "eval":
        model.encoder.eval().requires_grad_(False)
    else:
        model.encoder.requires_grad_(False)
    before, decoder = state(model.encoder), state(model.decoder)  # type: ignore[arg-type]
    fit(model, Joint(), few, replace(QUICK, weight_decay=0.1))
    assert moved(before, model.encoder) == []
    assert "stages.0.norm.running_mean" in moved(decoder, model.decoder)  # type: ignore[arg-type]


def test_fit_trains_weights_in_evaluation_mode_but_keeps_their_statistics(few: Splits) -> None:
    model = make()
    model.encoder.eval()
    before = state(model.encoder)
    fit(model, Joint(), few, QUICK)
    changed = moved(before, model.encoder)
    assert "stages.0.conv.weight" in changed
    assert not [name for name in changed if "running" in name or "tracked" in name]
    assert not model.encoder.training
    assert model.training


def test_fit_trains_a_model_that_is_in_evaluation_mode_as_a_whole(few: Splits) -> None:
    model = make().eval()
    before = state(model)
    fit(model, Joint(), few, QUICK)
    assert "encoder.stages.0.norm.running_mean" in moved(before, model)


class Perceptual(nn.Module):
    """A `Joint` with a distance of features of a network that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).eval()

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        loss = Joint()(model, batch, step)
        distance = (self.net(model(batch.images).reconstruction) - self.net(batch.images)).square().mean()
        return Loss(loss.total + distance, loss.terms)


def test_fit_keeps_the_mode_of_a_network_in_an_objective(few: Splits) -> None:
    objective = Perceptual().requires_grad_(False)
    before = state(objective)
    fit(make(), objective, few, QUICK)
    assert moved(before, objective) == []


def test_fit_keeps_what_is_frozen_in_a_teacher(few: Splits) -> None:
    model = make()
    model.encoder.eval().requires_grad_(False)
    before = state(model.encoder)
    objective = Consistency(model, 10)
    unlabelled = few.train.relabelled(torch.where(torch.arange(32) % 2 == 0, few.train.labels, -1))
    fit(model, objective, Splits(unlabelled, few.validation), QUICK)
    assert moved(before, model.encoder) == []
    assert moved(before, objective.averaged.encoder) == []


def test_fit_keeps_what_is_frozen_when_it_resumes(few: Splits, tmp_path: Path) -> None:
    def frozen() -> Autoencoder:
        model = make()
        model.encoder.eval()
        return model

    whole, first, second = frozen(), frozen(), frozen()
    fit(whole, Joint(), few, replace(QUICK, steps=3))
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        fit(first, Joint(), few, replace(QUICK, steps=1), run)
    with Run("test", RunConfig(resume=tmp_path / "run", wandb="disabled")) as run:
        fit(second, Joint(), few, replace(QUICK, steps=3), run)
    assert moved(state(whole), second) == []
    assert second.encoder.stages[0].norm.num_batches_tracked == 0  # type: ignore[index, union-attr]


def test_training_mode_keeps_the_buffers_of_frozen_parametrizations() -> None:
    module = nn.Sequential(spectral_norm(nn.Linear(3, 3)), nn.Dropout(), nn.Linear(3, 1))
    module[0].requires_grad_(False)
    TrainingMode([module]).apply()
    before = state(module)
    module(torch.rand(2, 3))
    assert moved(before, module) == []
    assert module[1].training


def test_fit_refuses_a_model_that_is_frozen_whole(few: Splits) -> None:
    with pytest.raises(InputError, match="all parameters are frozen"):
        fit(make().requires_grad_(False), Joint(), few, QUICK)


# Shapes


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
        (Squeezed, r"the decoder must give pixel logits \[b c h w\], gave \[1, 28, 28\]"),
    ],
)
def test_fit_refuses_a_decoder_of_another_shape(few: Splits, decoder: Any, complaint: str) -> None:
    model = make()
    model.decoder = decoder()
    with pytest.raises(InputError, match=complaint):
        fit(model, Joint(), few, QUICK)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("loss", [squared_error, bernoulli_nll, gaussian_nll])
def test_losses_broadcast_nothing_but_a_mask_of_one_channel(loss: Callable[..., Tensor]) -> None:
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
def test_cross_entropy_refuses_what_does_not_fit(logits: Tensor, labels: Tensor, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        cross_entropy(logits, labels)


def test_fit_refuses_a_head_with_fewer_logits_than_labels(few: Splits) -> None:
    with pytest.raises(InputError, match="the head digit gives 5 logits, for labels 0 to 4; there is a label 9"):
        fit(make(classes=5), Joint(), few, QUICK)


# Wrapped, shared and lazy modules


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), nn.DataParallel])
def test_fit_trains_the_model_in_a_wrapper(few: Splits, tmp_path: Path, wrap: Callable[..., Any]) -> None:
    plain, model = make(), make()
    wrapped = wrap(model)
    expected = fit(plain, Joint(), few, QUICK)
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        found = fit(wrapped, Joint(), few, QUICK, run)
    assert found["val/mse"] == expected["val/mse"]
    assert evaluate(wrapped, few.train)["mse"] == evaluate(plain, few.train)["mse"]
    assert moved(state(plain), load(tmp_path / "run")) == []


def test_weights_of_compiled_submodules_have_plain_names(tmp_path: Path) -> None:
    model, other = make(), make()
    other.encoder = torch.compile(copy.deepcopy(model.encoder), backend="eager")  # type: ignore[assignment]
    save_weights(tmp_path / "a", model)
    save_weights(tmp_path / "b", other)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_load_weights_reads_names_with_prefixes_of_wrappers(tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import save_file

    from ae import load_weights

    model, other = make(), make()
    nn.init.zeros_(other.encoder.stages[0].conv.weight)  # type: ignore[index, union-attr]
    save_file({prefix + name: tensor for name, tensor in model.state_dict().items()}, tmp_path / "a")
    load_weights(tmp_path / "a", other)
    assert moved(state(model), other) == []
    load_weights(tmp_path / "a", other.encoder, part="encoder")


def test_shared_weights_train_save_load_and_resume(few: Splits, tmp_path: Path) -> None:
    def tied() -> Autoencoder:
        model = make(norm=False)
        model.decoder.stages[-1].weight = model.encoder.stages[0].conv.weight  # type: ignore[union-attr, index]
        return model

    whole, first, second = tied(), tied(), tied()
    fit(whole, Joint(), few, replace(QUICK, steps=3))
    for model, where, steps in [(first, {"dir": tmp_path / "run"}, 1), (second, {"resume": tmp_path / "run"}, 3)]:
        with Run("test", RunConfig(wandb="disabled", **where)) as run:  # type: ignore[arg-type]
            fit(model, Joint(), few, replace(QUICK, steps=steps), run)
    assert moved(state(whole), second) == []
    loaded = load(tmp_path / "run")
    assert moved(state(whole), loaded) == []
    assert loaded.decoder.stages[-1].weight is loaded.encoder.stages[0].conv.weight  # type: ignore[union-attr, index]


def test_parametrized_weights_train_save_and_load(few: Splits, tmp_path: Path) -> None:
    def parametrized() -> ConvEncoder:
        encoder = ConvEncoder(1, (4, 6))
        spectral_norm(encoder.stages[0].conv)  # type: ignore[arg-type]
        weight_norm(encoder.stages[1].conv)  # type: ignore[arg-type]
        return encoder

    model = make(norm=False)
    model.encoder = parametrized()
    fit(model, Joint(), few, QUICK)
    save_weights(tmp_path / "a", model)
    with pytest.raises(InputError, match="modules with parametrizations are given as they were built"):
        load(tmp_path / "a")
    assert moved(state(model), load(tmp_path / "a", encoder=parametrized())) == []


def test_fit_gives_lazy_modules_their_weights(few: Splits, tmp_path: Path) -> None:
    model = Autoencoder(ConvEncoder(1, (4,)), heads={"digit": nn.Sequential(nn.Flatten(), nn.LazyLinear(10))})
    with pytest.raises(InputError, match="is of a lazy module"):
        save_weights(tmp_path / "a", model)
    fit(model, Joint(reconstruction=0.0), few, QUICK)
    assert model.heads["digit"][1].weight.shape == (10, 784)  # type: ignore[index]


@pytest.mark.parametrize(("model", "name"), [(nn.Linear(1, 1), "a Linear"), (Autoencoder, "the class Autoencoder")])
@pytest.mark.usefixtures("unhooked")
def test_fit_refuses_what_is_no_autoencoder(few: Splits, model: Any, name: str) -> None:
    with pytest.raises(InputError, match=rf"fit trains an Autoencoder\(encoder, decoder, ...\), got {name}"):
        fit(model, Joint(), few, QUICK)


# Several heads, and the loss of a whole set


def test_evaluate_says_once_that_several_heads_are_not_measured(few: Splits, capsys: Any) -> None:
    model = make()
    model.heads["other"] = Classifier((6, 7, 7), 3)
    for _ in range(2):
        assert "accuracy" not in evaluate(model, few.train)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "2 heads (digit, other)" in said[0]


def test_evaluate_gives_the_total_of_the_whole_set(few: Splits) -> None:
    labels = few.train.labels.clone()
    labels[3:16], labels[20:] = -1, -1
    images, model = few.train.relabelled(labels), make().eval()
    whole = Joint()(model, images.batch(slice(None)), 0).total.item()
    for batch_size in (1, 5, 16, 32):
        assert evaluate(model, images, Joint(), batch_size=batch_size)["loss"] == pytest.approx(whole, rel=1e-5)
    unlabelled = images.relabelled(torch.full_like(labels, -1))
    assert math.isfinite(evaluate(model, unlabelled, Joint(), batch_size=5)["loss"])


# Half precision


def test_bf16_keeps_code_rate_logits_and_losses_in_float32() -> None:
    torch.manual_seed(0)
    bottleneck, head = Gaussian((6, 7, 7), 5), Classifier((5,), 10)
    model = Autoencoder(ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4)), bottleneck, {"digit": head})
    batch = Batch(torch.rand(4, 1, 28, 28), torch.arange(4))
    features = torch.rand(4, 6, 7, 7)
    exact = bottleneck(features).rate
    with torch.autocast("cpu", torch.bfloat16):
        output, loss = model(batch.images), Joint("bernoulli", beta=1.0)(model, batch, 0)
        torch.testing.assert_close(bottleneck(features).rate, exact, rtol=1e-6, atol=1e-6)
    found = [output.params, output.logits["digit"], output.code.rate, output.code.posterior.mean, loss.total]
    assert {tensor.dtype for tensor in (*found, *loss.terms.values())} == {torch.float32}


# Batch norm of one image


@pytest.mark.parametrize(
    ("encoder", "fits"), [(ConvEncoder(1, (4,) * 6, True), False), (ConvEncoder(1, (4,), True), True)]
)
def test_fit_refuses_a_last_batch_that_batch_norm_can_not_take(digits: Splits, encoder: Any, fits: bool) -> None:
    model = Autoencoder(encoder, heads={"digit": nn.Sequential(nn.Flatten(), nn.LazyLinear(10))})
    data, recipe = Splits(digits.train.select(slice(17))), replace(QUICK, steps=3)
    if fits:
        fit(model, Joint(reconstruction=0.0), data, recipe)
        return
    with pytest.raises(InputError, match=r"batch norm in encoder\.stages\.5\.norm .* Recipe\.batch_size"):
        fit(model, Joint(reconstruction=0.0), data, recipe)
    fit(model, Joint(reconstruction=0.0), data, replace(QUICK, steps=1))


# Objectives


def given(value: Any) -> Any:
    def objective(model: Autoencoder, batch: Batch, step: int) -> Any:
        loss = Joint()(model, batch, step)
        return value(loss)

    return objective


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("objective", "complaint"),
    [
        (given(lambda loss: loss.total), r"must give a Loss\(total, terms\), gave a tensor \[\]"),
        (given(lambda loss: 1.0), "gave float 1.0"),
        (given(lambda loss: {"loss": loss.total}), "gave dict"),
        (given(lambda loss: None), "gave NoneType None"),
        (given(lambda loss: Loss(loss.total[None], {})), r"total must be .* without dimensions, got a tensor \[1\]"),
        (given(lambda loss: Loss(loss.total.detach(), {})), "total has no gradient"),
        (given(lambda loss: Loss(loss.total, dict[str, Any](a=1.0))), "term a must be a tensor .* got float 1.0"),
        (given(lambda loss: Loss(loss.total, {"a": torch.ones(2)})), r"term a must be .* got a tensor \[2\]"),
        (given(lambda loss: Loss(loss.total, {}, {"b": torch.ones(())})), "got b, which is none of its terms"),
        (lambda model, batch: None, r"called as objective\(model, batch, step\), got one that takes \(model, batch\)"),
        (Joint, r"give an instance, Joint\(...\), instead of the class"),
        (nn.Module(), "got Module, which can't be called"),
        ("joint", "got str, which can't be called"),
    ],
)
def test_fit_refuses_an_objective_that_breaks_the_contract(few: Splits, objective: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        fit(make(), objective, few, QUICK)
    assert "\n" not in str(error.value)


# Optimisers, schedules and devices


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_cosine_is_pytorchs(total: int) -> None:
    optimizer = torch.optim.SGD(parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for step in range(total):
        rate = Recipe(lr=0.3, schedule="cosine").learning_rate(step, total)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_adam_is_pytorchs(few: Splits) -> None:
    one, other = make(), make()
    fit(one, Joint(), few, replace(QUICK, optimizer="adam", weight_decay=0.1, betas=(0.5, 0.9)))
    adam = partial(torch.optim.Adam, weight_decay=0.1, betas=(0.5, 0.9), fused=True)
    fit(other, Joint(), few, replace(QUICK, optimizer=adam))
    assert moved(state(one), other) == []


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        (torch.optim.LBFGS, "gave LBFGS, which needs a closure"),
        (lambda p: torch.optim.SGD(p[:1], lr=0.1), "leaves out 1 of 2 parameters: freeze those"),
        (lambda p: torch.optim.SGD(p, lr=0.3), "sets a learning rate of 0.3: give it as Recipe.lr"),
        (lambda p: None, "must give a torch.optim.Optimizer, gave NoneType"),
        (lambda: None, "can't make an optimiser of parameters: .*takes 0 positional arguments"),
        (partial(torch.optim.Adam, betas=(2.0, 0.9)), "can't make an optimiser of parameters: Invalid beta"),
    ],
)
def test_recipe_refuses_an_optimizer_that_does_not_fit(factory: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Recipe(optimizer=factory, lr=0.1).make_optimizer(parameters())


def test_learning_rates_of_groups_keep_their_ratio() -> None:
    first, second = parameters()
    groups: list[dict[str, Any]] = [{"params": [first], "lr": 0.01}, {"params": [second]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    set_learning_rate(optimizer, 0.5, rate_ratios(optimizer))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])


@pytest.mark.parametrize(
    ("factor", "complaint"),
    [(math.nan, "finite, got nan"), (-1.0, "0 or more, got -1.0"), ("a", "a number 0 or more, got .a.")],
)
@pytest.mark.usefixtures("unhooked")
def test_recipe_refuses_what_a_schedule_gives(factor: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=rf"Recipe\.schedule gives at step 3 of 9 must be {complaint}"):
        Recipe(schedule=lambda step, steps: factor).learning_rate(3, 9)


def test_a_run_with_factories_resumes_and_records_their_names(few: Splits, tmp_path: Path) -> None:
    def halved(step: int, steps: int) -> float:
        return 0.5**step

    recipe = replace(QUICK, steps=3, optimizer=torch.optim.RMSprop, schedule=halved)
    whole, first, second = make(), make(), make()
    fit(whole, Joint(), few, recipe)

    class Stopped(Joint):
        def __call__(self, model: Autoencoder, batch: Batch, step: int, weights: Any = None) -> Loss:
            if step == 2 and model.training:
                raise KeyboardInterrupt
            return super().__call__(model, batch, step, weights)

    with (
        pytest.raises(KeyboardInterrupt),
        Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled"), {"recipe": recipe}) as run,
    ):
        fit(first, Stopped(), few, recipe, run)
    with Run("test", RunConfig(resume=tmp_path / "run", wandb="disabled"), {"recipe": recipe}) as run:
        fit(second, Joint(), few, recipe, run)
    assert moved(state(whole), second) == []
    said = json.loads((tmp_path / "run/config.json").read_text())["config"]["recipe"]
    assert said["optimizer"] == "torch.optim.rmsprop.RMSprop"
    assert said["schedule"].endswith("halved")


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "", "cpu:x", "xpu", "hpu", "mtia", "fpga", "privateuseone"])
def test_recipe_refuses_a_device_in_one_line(device: str) -> None:
    with pytest.raises(InputError, match=r"Recipe\.device: no device") as error:
        Recipe(device=device).find_device()
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unhooked")
def test_recipe_refuses_meta_and_takes_a_torch_device() -> None:
    with pytest.raises(InputError, match="meta has no values"):
        Recipe(device="meta").find_device()
    assert Recipe(device=torch.device("cpu")).find_device() == torch.device("cpu")  # type: ignore[arg-type]


# Compiling


@pytest.mark.slow
def test_fit_says_that_there_is_no_compiler(few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with (
        config.patch({"fx_graph_cache": False, "cpp.cxx": ("/nonexistent/c++",)}),
        pytest.raises(InputError, match=r"Recipe\.compile failed: .*ompiler") as error,
    ):
        fit(make(norm=False), Joint(), few, replace(QUICK, compile=True))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_gaussian_compiles_without_a_graph_break() -> None:
    """In a process without the run-time checks of shapes, which break every graph."""
    script = (
        "import ae, torch; bottleneck = ae.Gaussian((3, 2, 2), 2); "
        "explained = torch._dynamo.explain(lambda x: bottleneck(x).rate.sum())(torch.rand(4, 3, 2, 2)); "
        "print(explained.graph_break_count)"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0"


# Images of other kinds


@pytest.mark.usefixtures("unhooked")
def test_encoders_say_what_to_make_of_numpy_arrays() -> None:
    with pytest.raises(
        InputError, match=r"must be a torch tensor \[b 1 h w\], got ndarray: torch.from_numpy makes one"
    ):
        ConvEncoder()(np.zeros((2, 1, 8, 8), np.float32))
