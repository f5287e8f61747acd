"""Names of settings in `config.json` written by version 0.1, and their names since 0.2."""

from collections.abc import Mapping
from typing import Any

_SETTINGS = {
    "recipe": {"clip": "grad_clip"},
    "model": {"codes": "codebook_size"},
    "ramps": {"rate": "beta"},
}
_JOINT_SETTINGS = {"rate": "beta", "ramps": "weight_schedule"}


def renamed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run under their names since 0.2; the likelihood is a setting of the model."""
    renamed = _renamed(settings)
    objective, model = renamed.get("objective"), renamed.get("model")
    if isinstance(objective, dict) and "likelihood" in objective and isinstance(model, dict):
        likelihood, std = objective.pop("likelihood"), objective.pop("std", None)
        if likelihood != "mse":  # the default
            model["likelihood"] = likelihood
        if likelihood == "gaussian":
            model["std"] = std
    return renamed


def _renamed(settings: Mapping[str, Any], name: str = "", depth: int = 4) -> dict[str, Any]:
    """The settings in the section `name`, and in `depth` levels below, under their new names."""
    names = _JOINT_SETTINGS if {"likelihood", "ramps"} <= settings.keys() else _SETTINGS.get(name, {})
    return {
        names.get(key, key): _renamed(value, key, depth - 1) if depth and isinstance(value, Mapping) else value
        for key, value in settings.items()
    }
