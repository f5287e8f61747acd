"""A joint objective that learns how its terms are weighed."""

import math

import torch
from torch import nn

from ae.data import Batch
from ae.models.autoencoder import Autoencoder
from ae.objectives.joint import Joint, Loss
from ae.utils.errors import InputError
from ae.utils.validation import checked_arguments


class UncertaintyWeighting(nn.Module):
    """A `Joint` that learns the weights of reconstruction and classification, from its own as a beginning.

    Kendall et al. 2018, equation 10: each term L counts exp(-s) L + s / 2, s the logarithm of its noise's variance; so
    that each weight tends to 1 / (2 L). (Their 1/2 before a squared error is in s, as a constant of it.) The weights
    are logged among the terms, as `weight/...`. Raises InputError where one of both has a weight of 0,
    or a ramp.
    """

    @checked_arguments
    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint
        if joint.weight_schedule.reconstruction or joint.weight_schedule.classification:
            raise InputError("weights that are learned have no weight_schedule: leave out one of both")
        starts = {"reconstruction": joint.reconstruction, "classification": joint.classification}
        if not all(starts.values()):
            raise InputError(f"weights are learned of two terms: neither may begin with 0, got {starts}")
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(-math.log(weight))) for name, weight in starts.items()}
        )

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        weights = {name: (-log_variance).exp() for name, log_variance in self.log_variances.items()}
        loss = self.joint(model, batch, step, weights)
        total = loss.total + 0.5 * sum(self.log_variances.values())
        told = {f"weight/{name}": weight.detach() for name, weight in weights.items()}
        return Loss(total, {**loss.terms, **told}, loss.counts, loss.weights)
