"""Objectives: what training minimises. `objective(model, batch, step) -> Loss`."""

from ae.objectives.consistency import Consistency, Teaching
from ae.objectives.contractive import Contractive
from ae.objectives.joint import Corruption, Joint, Loss, Ramps, checked_loss, corruption_of, only_head
from ae.objectives.ladder import Ladder
from ae.objectives.uncertainty import LearnedWeights
from ae.objectives.variational import IWAE, MMD, BetaTC, log_weights

__all__ = [
    "IWAE",
    "MMD",
    "BetaTC",
    "Consistency",
    "Contractive",
    "Corruption",
    "Joint",
    "Ladder",
    "LearnedWeights",
    "Loss",
    "Ramps",
    "Teaching",
    "checked_loss",
    "corruption_of",
    "log_weights",
    "only_head",
]
