"""Values of configurations and metrics: compared, flattened and formatted."""

import json
from collections.abc import Mapping
from typing import Any

_MAX_METRIC = 1e150  # its square is finite


def is_real(value: Any) -> bool:
    """Whether a value is a number that a float can hold, NaN and infinities included."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number of magnitude up to 1e150; False for bool."""
    return is_real(value) and abs(float(value)) <= _MAX_METRIC  # False of NaN


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted names; empty dicts vanish, as in W&B."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nesting_exceeds(content: Any, depth: int) -> bool:
    """Whether dicts and lists are nested in more than `depth` levels."""
    level = [content]
    for _ in range(depth):
        containers = [value for value in level if isinstance(value, dict | list)]
        level = [value for each in containers for value in (each.values() if isinstance(each, dict) else each)]
    return any(isinstance(value, dict | list) for value in level)


def canonical(value: Any) -> str:
    """Encode a setting so that equal settings have equal texts; W&B may return 20 for 20.0."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(plain(value), default=str)


def format_setting(value: Any) -> str:
    """Format a setting for people."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return " ".join(map(format_setting, value)) or "none"
        case str():
            return value
    return json.dumps(value, default=str)
