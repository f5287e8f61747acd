"""Objectives: `objective(model, batch, step) -> Loss`, the loss that training minimises."""

from ae.objectives.adversarial import AdversarialConfig, PerceptualAdversarial
from ae.objectives.consistency import Consistency, TeacherConfig
from ae.objectives.contractive import Contractive
from ae.objectives.joint import (
    Corruption,
    Joint,
    Loss,
    WeightSchedule,
    check_objective,
    checked_loss,
    corruption_of,
    only_head,
)
from ae.objectives.ladder import Ladder
from ae.objectives.mae import MAE
from ae.objectives.perceptual import PerceptualDistance
from ae.objectives.prior import IndexLikelihood
from ae.objectives.uncertainty import UncertaintyWeighting
from ae.objectives.variational import IWAE, MMD, BetaTC, log_weights

__all__ = [
    "IWAE",
    "MAE",
    "MMD",
    "AdversarialConfig",
    "BetaTC",
    "Consistency",
    "Contractive",
    "Corruption",
    "IndexLikelihood",
    "Joint",
    "Ladder",
    "Loss",
    "PerceptualAdversarial",
    "PerceptualDistance",
    "TeacherConfig",
    "UncertaintyWeighting",
    "WeightSchedule",
    "check_objective",
    "checked_loss",
    "corruption_of",
    "log_weights",
    "only_head",
]
