"""Names of settings in `config.json` written by version 0.1, and their names since 0.2."""

from collections.abc import Mapping
from typing import Any

_SETTINGS = {
    "recipe": {"clip": "grad_clip"},
    "model": {"codes": "codebook_size"},
    "ramps": {"rate": "beta"},
}
_JOINT_SETTINGS = {"rate": "beta", "ramps": "weight_schedule"}


def renamed_settings(settings: Mapping[str, Any], name: str = "", depth: int = 4) -> dict[str, Any]:
    """The settings in the section `name` of a run, and in `depth` levels below, under their names since 0.2."""
    names = _JOINT_SETTINGS if {"likelihood", "ramps"} <= settings.keys() else _SETTINGS.get(name, {})
    return {
        names.get(key, key): renamed_settings(value, key, depth - 1) if depth and isinstance(value, Mapping) else value
        for key, value in settings.items()
    }
