"""Validation of settings and arguments: conversions, refusals, and their messages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from ae import (
    Augment,
    Autoencoder,
    Classifier,
    Consistency,
    ConvEncoder,
    Data,
    Generation,
    Images,
    InputError,
    Joint,
    Loop,
    Recipe,
    Run,
    RunConfig,
    Splits,
    Streamed,
    TopK,
    UncertaintyWeighting,
    WeightSchedule,
    evaluate,
    fit,
    load,
    report,
    save_weights,
)
from ae.compare import read_runs
from ae.data.corruptions import PatchMask
from ae.evaluation.extract import encode
from ae.evaluation.sampling import interpolations
from ae.utils.validation import AtLeast0, BelowOne, Fraction, Positive, Settings, checked, checked_arguments, nearest
from experiments import vae, wae

pytestmark = pytest.mark.usefixtures("unhooked")

MODEL = Autoencoder(nn.Identity())
IMAGES = Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([-1, -1]), ())
LABELLED = Images(IMAGES.pixels, torch.tensor([0, 1]), ("a", "b"))
SPLITS = Splits(IMAGES)


@dataclass(frozen=True)
class Inner(Settings):
    """Nested settings."""

    depth: Positive[int] = 1


@dataclass(frozen=True)
class Example(Settings):
    """Settings with a field of each type."""

    count: Positive[int] = 1
    weight: AtLeast0[float] = 1.0
    share: Fraction = 0.5
    decay: BelowOne = 0.9
    on: bool = False
    choice: Literal["a", "b"] = "a"
    path: Path | None = None
    sizes: tuple[Positive[int], ...] = (1,)
    pair: tuple[float, Positive[int]] = (0.0, 1)
    name: str = ""
    rule: Literal["x"] | Callable[[int], int] = "x"
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("count", np.int64(3), 3),
        ("count", np.uint8(3), 3),
        ("weight", 2, 2.0),
        ("weight", np.float32(0.5), 0.5),
        ("weight", np.int32(2), 2.0),
        ("share", 1, 1.0),
        ("on", np.bool_(True), True),
        ("path", "runs/x", Path("runs/x")),
        ("sizes", [2, np.int64(3)], (2, 3)),
        ("sizes", np.array([2, 3]), (2, 3)),
        ("sizes", torch.Size([2, 3]), (2, 3)),
        ("sizes", torch.tensor([4]), (4,)),
        ("sizes", (), ()),
        ("pair", [1, 2], (1.0, 2)),
        ("name", np.str_("n"), "n"),
        ("rule", abs, abs),
    ],
)
def test_settings_convert_equivalent_values(field: str, value: Any, expected: Any) -> None:
    converted = getattr(Example(**{field: value}), field)
    assert converted == expected
    assert type(converted) is type(expected)
    if isinstance(expected, tuple):
        assert [type(each) for each in converted] == [type(each) for each in expected]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", 0, "must be positive, got 0"),
        ("count", 0.5, "must be a positive whole number, got 0.5"),
        ("count", 2.0, "must be a positive whole number, got 2.0"),
        ("count", True, "must be a positive whole number, got True"),
        ("count", "3", "must be a positive whole number, got '3'"),
        ("count", None, "must be a positive whole number, got None"),
        ("count", torch.tensor(3), r"must be a positive whole number, got tensor\(3\)"),
        ("weight", -0.1, "must be 0 or more, got -0.1"),
        ("weight", float("nan"), "must be finite, got nan"),
        ("weight", float("inf"), "must be finite, got inf"),
        ("weight", np.float64("-inf"), "must be finite, got -inf"),
        ("weight", "fast", "must be a number 0 or more, got 'fast'"),
        ("weight", False, "must be a number 0 or more, got False"),
        ("weight", 1 + 0j, "must be a number 0 or more"),
        ("share", 1.01, "must be from 0 to 1, got 1.01"),
        ("decay", 1.0, "must be from 0 to less than 1, got 1.0"),
        ("on", 1, "must be True or False, got 1"),
        ("on", "no", "must be True or False, got 'no'"),
        ("choice", "c", "must be a or b, got 'c'"),
        ("choice", "A", "must be a or b, got 'A'; the nearest is a"),
        ("choice", None, "must be a or b, got None"),
        ("path", "", "must be a path, got ''"),
        ("path", "a\0b", "must be a path"),
        ("path", b"runs", "must be a path, got b'runs'"),
        ("path", 3, "must be a path, got 3"),
        ("path", "~nobody-of-this-name/x", "must be a path"),
        ("sizes", 3, "must be a sequence, each a positive whole number, got 3"),
        ("sizes", "12", "must be a sequence"),
        ("sizes", (1, 0), "must be positive, got 0"),
        ("sizes", (1, 2.5), "must be a positive whole number, got 2.5"),
        ("pair", (1.0,), "must be 2 values"),
        ("pair", (1.0, 0), "must be positive, got 0"),
        ("name", 3, "must be text, got 3"),
        ("rule", "y", "must be x or a function, got 'y'"),
        ("inner", {"depth": 1}, "must be Inner, got {'depth': 1}"),
        ("inner", None, "must be Inner, got None"),
    ],
)
def test_settings_raise_one_line_with_class_and_field(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^Example\.{field}\S* {message}") as caught:
        Example(**{field: value})
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        replace(Example(), **{field: value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Recipe(optimizer="Adam"),
            "Recipe.optimizer must be sgd, adam, adamw or a function, got 'Adam'; the nearest is adam",
        ),
        (lambda: Recipe(schedule="cosin"), "Recipe.schedule must be .*; the nearest is cosine"),
        (lambda: Recipe(precision="fp16"), "Recipe.precision must be fp32, bf16 or auto, got 'fp16'"),
        (lambda: Recipe(epochs=0.5), "Recipe.epochs must be a positive whole number, got 0.5"),
        (lambda: Recipe(betas=(0.9, 1.0), optimizer="adam"), r"Recipe.betas\[1\] must be from 0 to less than 1"),
        (lambda: Recipe(betas=(0.5, 0.9)), "Recipe.betas is not read by sgd"),
        (lambda: Recipe(optimizer="adamw", momentum=0.5), "Recipe.momentum is not read by adamw"),
        (lambda: Recipe(optimizer=torch.optim.RMSprop, weight_decay=0.1), "weight_decay is not read by an optimizer"),
        (
            lambda: vae.Model(std=0.5),
            "Model.std is not read by the likelihood bernoulli: choose Model.likelihood gaussian",
        ),
        (lambda: Joint(free_bits=0.5), "Joint.free_bits is not read where the rate costs nothing"),
        (
            lambda: Joint(weight_schedule=WeightSchedule(beta=(0, 9))),
            "WeightSchedule.beta is of a term that never counts: give Joint.beta a weight",
        ),
        (lambda: vae.Model(widths=(8,), channels=(8,)), "Model.channels is not read where Model.widths are given"),
        (lambda: vae.Model(widths=(8,), norm=False), "Model.norm is not read where Model.widths are given"),
        (
            lambda: vae.Config(model=vae.Model(likelihood="gaussian"), generation=Generation(likelihood_samples=9)),
            "Generation.likelihood_samples is not read with Model.likelihood gaussian: leave it out",
        ),
        (
            lambda: wae.Config(generation=Generation(likelihood_images=9)),
            "Generation.likelihood_images is not read by a model without a posterior",
        ),
        (lambda: RunConfig(wandb="yes"), "RunConfig.wandb must be auto, online, offline or disabled, got 'yes'"),
        (lambda: RunConfig(tags="a"), "RunConfig.tags must be a sequence, each text, got 'a'"),
        (lambda: Data("MNIST"), "Data.name must be mnist, .*; the nearest is mnist"),
        (lambda: vae.Model(likelihood="bernouli"), "Model.likelihood must be bernoulli, .* nearest is bernoulli"),
        (lambda: Augment(shift=1.5), "Augment.shift must be a whole number 0 or more, got 1.5"),
        (lambda: PatchMask(fraction=2), "PatchMask.fraction must be from 0 to 1, got 2"),
        (lambda: ConvEncoder(channels="64"), "channels must be a sequence, each a positive whole number, got '64'"),
        (lambda: ConvEncoder(channels=64), "channels must be a sequence"),
        (lambda: ConvEncoder(in_channels=1.0), "in_channels must be a positive whole number, got 1.0"),
        (lambda: ConvEncoder(norm="yes"), "norm must be True or False, got 'yes'"),
        (lambda: Classifier((64, 7, 7), classes=0), "classes must be positive, got 0"),
        (lambda: TopK((4,), 8, k=9), "k must be at most the 8 latents, got 9"),
        (lambda: evaluate(MODEL, IMAGES, batch_size=0), "batch_size must be positive, got 0"),
        (lambda: evaluate(MODEL, IMAGES, batch_size=2.0), "batch_size must be a positive whole number, got 2.0"),
        (lambda: IMAGES.in_order(0), "batch_size must be positive, got 0"),
        (lambda: Splits(IMAGES).batches(3, seed=0), "Recipe.batch_size must be at most 2, the number of .*, got 3"),
        (lambda: Splits(IMAGES).class_count, "the data have no classes to learn"),
        (lambda: encode(MODEL, IMAGES, "x", parts="codes"), "parts must be a sequence, each codes, .*, got 'codes'"),
        (lambda: encode(MODEL, IMAGES, "x", ("code",)), "parts must be codes, .*, got 'code'; the nearest is codes"),
        (lambda: read_runs("runs"), "sources must be a sequence, each text or a path, got 'runs'"),
        (lambda: load(""), "path must be a path, got ''"),
        (lambda: save_weights(3, MODEL), "path must be a path or text, got 3"),
        (lambda: save_weights("x", 3), "model must be a torch.nn.Module, got 3"),
        (lambda: save_weights(Path(), MODEL), "is a folder: give a file in it, as in model.safetensors"),
        (lambda: fit(MODEL, Joint(), SPLITS, {"epochs": 1}), "recipe must be Recipe, got {'epochs': 1}"),
        (lambda: fit(MODEL, Joint(), SPLITS, Recipe(), "runs/x"), "run must be Run, got 'runs/x'"),
        (lambda: Loop(MODEL, Joint(), SPLITS, Recipe(), "runs/x"), "run must be Run, got .runs/x."),
        (lambda: report(MODEL, SPLITS, {}, None), "run must be Run, got None"),
        (lambda: Run("x", {"dir": "y"}), "where must be RunConfig, got {'dir': 'y'}"),
        (lambda: Splits(None), "Splits.train must be Images or Streamed, got NoneType"),
        (lambda: Splits(torch.zeros(2, 1, 4, 4)), "Splits.train must be Images or Streamed, got Tensor"),
        (lambda: Splits(IMAGES, test=IMAGES), "Splits.test must be a function that reads the images, got Images"),
        (lambda: Splits(IMAGES, LABELLED), "must have the same classes, got 0 and 2"),
        (lambda: Streamed.of(None), "items must be a Dataset with a length"),
        (lambda: evaluate(None, IMAGES), "model must be a torch.nn.Module, got None"),
        (lambda: evaluate(nn.Linear(2, 2), IMAGES), "an evaluation takes an Autoencoder.*, got a Linear"),
        (lambda: evaluate(MODEL, IMAGES, Joint), "give an instance, Joint.*, instead of the class"),
        (lambda: Autoencoder(None), "encoder must be a torch.nn.Module, got None"),
        (lambda: Autoencoder(nn.Identity(), "x"), "decoder must be a torch.nn.Module, got 'x'"),
        (lambda: Autoencoder(nn.Identity(), heads=[nn.Identity()]), "heads must be a dict {name: module}"),
        (lambda: Autoencoder(nn.Identity(), heads={"a.b": nn.Identity()}), "must be text without a dot .* got 'a.b'"),
        (lambda: Autoencoder(nn.Identity(), heads={"a": 3}), "the head a must be a torch.nn.Module, got 3"),
        (lambda: UncertaintyWeighting(None), "joint must be Joint, got None"),
        (lambda: Consistency(None, 10), "model must be a torch.nn.Module, got None"),
        (
            lambda: interpolations(MODEL, torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 4, 4)),
            r"interpolations need as many images of each, got \[2, 1, 4, 4\] and \[3, 1, 4, 4\]",
        ),
    ],
)
def test_public_api_refuses_invalid_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_settings_convert_text_to_paths_and_expand_home(tmp_path: Path) -> None:
    assert Example(path="~/x").path == Example(path=Path("~/x")).path == Path.home() / "x"
    assert RunConfig(dir=str(tmp_path)).dir == tmp_path
    assert Data("folder", root=str(tmp_path)).root == tmp_path


def test_checked_arguments_ignores_other_types() -> None:
    module = nn.Linear(1, 1)

    @checked_arguments
    def make(module: nn.Module, count: Positive[int] = 2, *names: Any, sizes: Sequence[int] = (), **rest: Any) -> Any:
        return module, count, names, sizes, rest

    assert make(module) == (module, 2, (), (), {})
    assert make(module, np.int64(3), "a", sizes=[1], other=None) == (module, 3, ("a",), (1,), {"other": None})
    with pytest.raises(InputError, match="count must be positive, got 0"):
        make(module, 0)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'module'"):
        make()


def test_checked_reports_the_closest_member_of_a_union() -> None:
    hint = Positive[float] | Sequence[Positive[float]]
    assert checked(2, hint, "std") == 2.0
    assert checked([1, 2], hint, "std") == (1.0, 2.0)
    with pytest.raises(InputError, match=r"^std must be positive, got 0.0"):
        checked(0.0, hint, "std")
    with pytest.raises(
        InputError, match=r"^std must be a positive number or a sequence, each a positive number, got 'x'"
    ):
        checked("x", hint, "std")


def test_nearest_ignores_case() -> None:
    assert nearest("MNIST", ["mnist", "svhn"]) == "; the nearest is mnist"
    assert nearest("zzz", ["mnist"]) == ""
