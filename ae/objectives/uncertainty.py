"""Uncertainty weighting: learned weights of the terms of a joint objective."""

import math

import torch
from torch import nn

from ae.data import Batch
from ae.models.autoencoder import Autoencoder
from ae.objectives.joint import Joint, Loss
from ae.utils.errors import InputError
from ae.utils.validation import checked_arguments


class UncertaintyWeighting(nn.Module):
    """`Joint` with learned weights of reconstruction and classification, initialised with its weights.

    Kendall et al. 2018, equation 10: each term L contributes exp(-s) L + s / 2, with s the log variance of its noise,
    so that each weight tends to 1 / (2 L). (The factor 1/2 of a squared error is a constant in s.) The weights are
    logged as terms `weight/...`. Raises InputError if either weight is 0 or has a schedule.
    """

    @checked_arguments
    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint
        if joint.weight_schedule.reconstruction or joint.weight_schedule.classification:
            raise InputError("weights that are learned have no weight_schedule: leave out one of both")
        initial = {"reconstruction": joint.reconstruction, "classification": joint.classification}
        if not all(initial.values()):
            raise InputError(f"weights are learned of two terms: neither may begin with 0, got {initial}")
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(-math.log(weight))) for name, weight in initial.items()}
        )

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        weights = {name: (-log_variance).exp() for name, log_variance in self.log_variances.items()}
        loss = self.joint(model, batch, step, weights)
        total = loss.total + 0.5 * sum(self.log_variances.values())
        logged = {f"weight/{name}": weight.detach() for name, weight in weights.items()}
        return Loss(total, {**loss.terms, **logged}, loss.counts, loss.weights)
