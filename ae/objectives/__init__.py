"""Objectives: what training minimises. `objective(model, batch, step) -> Loss`."""

from ae.objectives.contractive import Contractive
from ae.objectives.joint import Corruption, Joint, Loss, only_head
from ae.objectives.variational import IWAE, MMD, BetaTC, log_weights

__all__ = ["IWAE", "MMD", "BetaTC", "Contractive", "Corruption", "Joint", "Loss", "log_weights", "only_head"]
