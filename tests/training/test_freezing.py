"""Training with frozen parameters and submodules."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ae import (
    Autoencoder,
    Batch,
    Consistency,
    InputError,
    Joint,
    Loss,
    Run,
    RunConfig,
    Splits,
    fit,
)
from ae.models.freezing import TrainingMode
from tests.helpers.small import SHORT, autoencoder, changed_tensors, copied_state


@pytest.mark.parametrize("how", ["eval", "requires_grad"])
def test_fit_leaves_a_frozen_encoder_unchanged(few: Splits, how: str) -> None:
    model = autoencoder()
    if how == "eval":
        model.encoder.eval().requires_grad_(False)
    else:
        model.encoder.requires_grad_(False)
    before, decoder = copied_state(model.encoder), copied_state(model.decoder)  # type: ignore[arg-type]
    fit(model, Joint(), few, replace(SHORT, weight_decay=0.1))
    assert changed_tensors(before, model.encoder) == []
    assert "stages.0.norm.running_mean" in changed_tensors(decoder, model.decoder)  # type: ignore[arg-type]


def test_fit_keeps_statistics_of_modules_in_evaluation_mode(few: Splits) -> None:
    model = autoencoder()
    model.encoder.eval()
    before = copied_state(model.encoder)
    fit(model, Joint(), few, SHORT)
    changed = changed_tensors(before, model.encoder)
    assert "stages.0.conv.weight" in changed
    assert not [name for name in changed if "running" in name or "tracked" in name]
    assert not model.encoder.training
    assert model.training


def test_fit_trains_a_model_in_evaluation_mode_as_a_whole(few: Splits) -> None:
    model = autoencoder().eval()
    before = copied_state(model)
    fit(model, Joint(), few, SHORT)
    assert "encoder.stages.0.norm.running_mean" in changed_tensors(before, model)


class Perceptual(nn.Module):
    """`Joint` plus a distance of features of a frozen network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).eval()

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        loss = Joint()(model, batch, step)
        distance = (self.net(model(batch.images).reconstruction) - self.net(batch.images)).square().mean()
        return Loss(loss.total + distance, loss.terms)


def test_fit_keeps_the_mode_of_a_network_in_an_objective(few: Splits) -> None:
    objective = Perceptual().requires_grad_(False)
    before = copied_state(objective)
    fit(autoencoder(), objective, few, SHORT)
    assert changed_tensors(before, objective) == []


def test_fit_keeps_frozen_parts_of_a_teacher(few: Splits) -> None:
    model = autoencoder()
    model.encoder.eval().requires_grad_(False)
    before = copied_state(model.encoder)
    objective = Consistency(model, 10)
    unlabelled = few.train.relabelled(torch.where(torch.arange(32) % 2 == 0, few.train.labels, -1))
    fit(model, objective, Splits(unlabelled, few.validation), replace(SHORT, ema=0.99))
    assert changed_tensors(before, model.encoder) == []
    assert changed_tensors(before, objective.averaged.encoder) == []


def test_fit_keeps_frozen_parts_when_it_resumes(few: Splits, tmp_path: Path) -> None:
    def frozen() -> Autoencoder:
        model = autoencoder()
        model.encoder.eval()
        return model

    whole, first, second = frozen(), frozen(), frozen()
    fit(whole, Joint(), few, replace(SHORT, steps=3))
    with Run("test", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        fit(first, Joint(), few, replace(SHORT, steps=1), run)
    with Run("test", RunConfig(resume=tmp_path / "run", wandb="disabled")) as run:
        fit(second, Joint(), few, replace(SHORT, steps=3), run)
    assert changed_tensors(copied_state(whole), second) == []
    assert second.encoder.stages[0].norm.num_batches_tracked == 0  # type: ignore[index, union-attr]


def test_training_mode_keeps_the_buffers_of_frozen_parametrizations() -> None:
    module = nn.Sequential(spectral_norm(nn.Linear(3, 3)), nn.Dropout(), nn.Linear(3, 1))
    module[0].requires_grad_(False)
    TrainingMode([module]).apply()
    before = copied_state(module)
    module(torch.rand(2, 3))
    assert changed_tensors(before, module) == []
    assert module[1].training


def test_fit_refuses_a_model_without_trainable_parameters(few: Splits) -> None:
    with pytest.raises(InputError, match="all parameters are frozen"):
        fit(autoencoder().requires_grad_(False), Joint(), few, SHORT)
