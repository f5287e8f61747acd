"""Sharded training: the weights of training without, of which each process holds a part."""

import copy
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ae import (
    MMD,
    Autoencoder,
    Classifier,
    Consistency,
    Contractive,
    ConvEncoder,
    Data,
    DeconvDecoder,
    Dense,
    Gaussian,
    Images,
    InputError,
    Joint,
    Ladder,
    Recipe,
    Run,
    RunConfig,
    Splits,
    UncertaintyWeighting,
    fit,
    load,
    report,
)
from ae.models.likelihoods import BernoulliLikelihood
from ae.training.sharding import is_supported
from ae.utils.distributed import all_gather, from_main, is_main, is_sharded, own, whole, world_size
from tests.helpers.held import held
from tests.helpers.in_processes.training import FEATURES, TAUGHT, model_with

RECIPE = Recipe(steps=5, batch_size=10, optimizer="adam", lr=0.001, schedule="constant", log_every=1)
CASES: list[tuple[Any, dict[str, Any]]] = [
    (lambda model: Joint(), {"grad_clip": 0.5, "ema": 0.9, "weight_decay": 0.1}),
    (lambda model: MMD(), {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "micro_batch": 2, "lr": 0.01}),
    (lambda model: Joint(), {"optimizer": "adamw", "weight_decay": 0.1, "decays": "weights", "checkpointing": True}),
    (lambda model: UncertaintyWeighting(Joint()), {"optimizer": torch.optim.RMSprop, "schedule": "cosine"}),
    (lambda model: Consistency(model, 10, Joint(), replace(TAUGHT, method="mean-teacher")), {"ema": 0.9}),
    (lambda model: Joint(), {"precision": "bf16"}),
]


def digits() -> Splits:
    """Digits of 12x12 pixels: 33 for training, in batches of 10, 10, 10 and 3, and 10 for validation."""
    images = held(Data("mnist", limit=43).load().train)
    pixels = images.pixels[:, :, 8:20, 8:20].contiguous()
    train = Images(pixels[:33], images.labels[:33], images.classes)
    return Splits(train, Images(pixels[33:], images.labels[33:], images.classes))


def small_model(norm: bool = False) -> Autoencoder:
    """Without batch norm by default: of a bias before it, the gradient is rounding, which Adam enlarges."""
    torch.manual_seed(0)
    if norm:
        return model_with(Dense(FEATURES, 5))
    encoder, decoder = ConvEncoder(1, (4, 6)), DeconvDecoder(1, (6, 4))
    return Autoencoder(encoder, decoder, Dense(FEATURES, 5), {"digit": Classifier((5,))})


@contextmanager
def shared_folder() -> Iterator[Path]:
    folder = from_main(lambda: Path(tempfile.mkdtemp()))
    yield folder
    all_gather(None)
    if is_main():
        shutil.rmtree(folder)


def check_sharded_training_equals_training_without() -> None:
    check_cases(CASES[:2])


def check_sharded_training_by_other_recipes_equals_training_without() -> None:
    check_cases(CASES[2:])


def check_cases(cases: list[tuple[Any, dict[str, Any]]]) -> None:
    data = digits()
    for objective, options in cases:
        model = small_model(norm=options.get("optimizer") == "sgd")
        sharded = copy.deepcopy(model)
        expected = fit(model, objective(model), data, replace(RECIPE, **options))
        results = fit(sharded, objective(sharded), data, replace(RECIPE, **options, shard=True))
        for name, value in whole(sharded.state_dict()).items():
            torch.testing.assert_close(
                value,
                model.state_dict()[name],
                atol=1e-5,
                rtol=1e-4,
                msg=f"{options} {name}",
            )
        for name in ("val/loss", "val/mse", "val/accuracy"):
            assert results[name] == pytest.approx(expected[name], rel=1e-5), (options, name)


def check_every_process_holds_its_share_of_the_stages() -> None:
    """Also of stages with fewer rows than processes, and of a frozen one, whose weights stay as they are."""
    torch.manual_seed(0)
    parts = ConvEncoder(1, (1, 9)), DeconvDecoder(1, (9, 4)), Gaussian((9, 3, 3), 5)
    model = Autoencoder(*parts, likelihood=BernoulliLikelihood())
    model.encoder.stages[1].requires_grad_(False)  # type: ignore[index]
    before = copy.deepcopy(model.state_dict())
    fit(model, Joint(classification=0.0, beta=0.1), digits(), replace(RECIPE, shard=True))
    for name, parameter in model.named_parameters():
        assert is_sharded(parameter) == ("stages" in name), name
        if is_sharded(parameter):
            rows = own(parameter).shape[0] if own(parameter).numel() else 0
            assert sum(all_gather(rows)) == parameter.shape[0], name
            assert rows <= -(-parameter.shape[0] // world_size()), name
    after = whole(model.state_dict())
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


def check_sharded_run_is_saved_resumed_and_reported() -> None:
    """A run goes on sharded or not; its files are those of a run without, and hold whole weights.

    The tolerance is 1/50 of a step of Adam, which enlarges the rounding of small gradients.
    """
    data, recipe = digits(), replace(RECIPE, ema=0.9)
    data = replace(data, test=lambda: data.train)
    with shared_folder() as folder:
        for name, shards in (("whole", (False, False)), ("sharded", (True, True)), ("mixed", (True, False))):
            for steps, shard, resume in zip((2, 5), shards, (None, folder / name), strict=True):
                where = RunConfig(dir=None if resume else folder / name, resume=resume, wandb="disabled")
                model = small_model()
                with Run("sharded", where) as run:
                    results = fit(model, Joint(), data, replace(recipe, steps=steps, shard=shard), run)
                    report(model, data, results, run)
            all_gather(None)
            for file in ("model.safetensors", "best.safetensors"):
                expected = load(folder / "whole" / file).state_dict()
                for key, value in load(folder / name / file).state_dict().items():
                    torch.testing.assert_close(
                        value,
                        expected[key],
                        atol=2e-5,
                        rtol=1e-4,
                        msg=f"{name} {file} {key}",
                    )
            assert (folder / name / "reconstructions.png").exists()
        fork = small_model()
        with Run("sharded", RunConfig(dir=folder / "fork", fork=folder / "sharded", wandb="disabled")) as run:
            fit(fork, Joint(), data, replace(RECIPE, steps=1, lr=1e-9, shard=True), run)
        forked, source = whole(fork.state_dict()), load(folder / "sharded").state_dict()
        for name, _ in fork.named_parameters():
            torch.testing.assert_close(forked[name], source[name], atol=1e-6, rtol=1e-5)


class Direct(nn.Module):
    """Read a child's weights without a call of the child."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.conv.weight, self.conv.bias, stride=4)


def check_what_can_not_be_sharded_is_refused() -> None:
    data = digits()
    shared = small_model()
    shared.heads["digit"].scale = shared.encoder.stages[0].conv.weight  # type: ignore[union-attr, index]
    direct = small_model()
    direct.encoder = Direct()
    ladder = small_model(norm=True)
    refused: list[tuple[nn.Module, Any, str]] = [
        (shared, Joint(), "can't share out encoder.stages.0.conv.weight, which several parts hold"),
        (direct, Joint(), "a stage of the encoder or decoder is not called as a module"),
        (ladder, Ladder(ladder, 12, 12, (1.0, 0.1, 0.1, 0.1, 0.1)), "is not called as a module"),
        (small_model(), Contractive(), "the loss takes derivatives of derivatives"),
        (nn.Linear(3, 3), lambda model, batch, step: None, "is of an Autoencoder's encoder and decoder, got Linear"),
    ]
    for model, objective, message in refused:
        with pytest.raises(InputError, match=re.escape(message)):
            fit(model, objective, data, replace(RECIPE, shard=True))
    with shared_folder() as folder:
        run = Run("watched", RunConfig(dir=folder / "run", watch="gradients", wandb="disabled"))
        with pytest.raises(InputError, match=r"RunConfig\.watch can't see weights that Recipe"):
            fit(small_model(), Joint(), data, replace(RECIPE, shard=True), run)
        run.finish()


def check_older_pytorch_is_refused() -> None:
    with pytest.raises(InputError, match=r"Recipe\.shard needs PyTorch 2\.14 or newer, got"):
        fit(small_model(), Joint(), digits(), replace(RECIPE, shard=True))


CHECKS = [
    check_sharded_training_equals_training_without,
    check_every_process_holds_its_share_of_the_stages,
    check_what_can_not_be_sharded_is_refused,
]
SLOW_CHECKS = [
    check_sharded_training_by_other_recipes_equals_training_without,
    check_sharded_run_is_saved_resumed_and_reported,
]
if not is_supported():
    CHECKS, SLOW_CHECKS = [check_older_pytorch_is_refused], []
