"""Objectives: `objective(model, batch, step) -> Loss`, the loss that training minimises."""

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
from ae.objectives.prior import IndexLikelihood
from ae.objectives.uncertainty import UncertaintyWeighting
from ae.objectives.variational import IWAE, MMD, BetaTC, log_weights

__all__ = [
    "IWAE",
    "MAE",
    "MMD",
    "BetaTC",
    "Consistency",
    "Contractive",
    "Corruption",
    "IndexLikelihood",
    "Joint",
    "Ladder",
    "Loss",
    "TeacherConfig",
    "UncertaintyWeighting",
    "WeightSchedule",
    "check_objective",
    "checked_loss",
    "corruption_of",
    "log_weights",
    "only_head",
]
