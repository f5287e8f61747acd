"""Names of settings in `config.json` written by version 0.1, and their names since 0.2."""

from collections.abc import Mapping
from typing import Any

_SETTINGS = {
    "recipe": {"clip": "grad_clip"},
    "model": {"codes": "codebook_size"},
    "ramps": {"rate": "beta", "penalty": "aux"},
}
_JOINT_SETTINGS = {"rate": "beta", "ramps": "weight_schedule", "penalty": "aux"}


def renamed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run under their names and at their places since 0.2.

    The likelihood of `Joint` is a setting of the model.
    """
    renamed, model, objective = _renamed(settings), settings.get("model"), settings.get("objective")
    recipe, teaching = renamed.get("recipe"), renamed.get("teaching")
    if isinstance(recipe, dict) and {"penalty", "decay"} <= renamed.keys():  # a GAN: the generator's average
        recipe["ema"] = renamed.pop("decay")
        return renamed
    if isinstance(recipe, dict) and isinstance(teaching, dict) and "decay" in teaching:  # the teacher's average
        recipe["ema"] = teaching.pop("decay")
    if not isinstance(model, Mapping) or not isinstance(objective, Mapping):
        return renamed
    joint = objective.get("joint", objective)
    if not _is_joint(joint) or joint["likelihood"] == "mse":  # the default
        return renamed
    likelihood = {"likelihood": joint["likelihood"]}
    if joint["likelihood"] == "gaussian":
        likelihood["std"] = joint.get("std")
    return {**renamed, "model": {**renamed["model"], **likelihood}}


def _renamed(settings: Mapping[str, Any], name: str = "", depth: int = 4) -> dict[str, Any]:
    """The settings in the section `name`, and in `depth` levels below, under their new names."""
    is_joint = _is_joint(settings)
    names = _JOINT_SETTINGS if is_joint else _SETTINGS.get(name, {})
    return {
        names.get(key, key): _renamed(value, key, depth - 1) if depth and isinstance(value, Mapping) else value
        for key, value in settings.items()
        if not (is_joint and key in ("likelihood", "std"))
    }


def _is_joint(settings: Any) -> bool:
    """Whether a section holds the settings of `Joint`, of an experiment or inside another objective."""
    return isinstance(settings, Mapping) and {"likelihood", "ramps"} <= settings.keys()
