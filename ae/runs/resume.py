"""Compatibility of a resumed run's configuration with the configuration that the run was started with."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ae.utils.errors import InputError

_LISTED = 5  # settings in a message


def changes(before: Mapping[str, Any], config: Any, after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the settings of `config` that differ from `before`, as {name: [before, after]}.

    `after` is `config` as JSON values. A dataclass's method `may_change(name)` tells which fields may differ; other
    differences raise InputError. A field that is open, by the method `leaves_open(name)`, does not differ.
    """
    differences = list(_differences(before, config, after))
    refused = [f"{name} {old!s:.60} -> {new!s:.60}" for name, old, new, may_change in differences if not may_change]
    if refused:
        more = f" and {len(refused) - _LISTED} more" if len(refused) > _LISTED else ""
        hint = "start from its weights with --run.fork"
        raise InputError(f"a run can't be continued with another {', '.join(refused[:_LISTED])}{more}; {hint}")
    return {name: [old, new] for name, old, new, _ in differences}


def _differences(
    before: Mapping[str, Any], config: Any, after: Mapping[str, Any], prefix: str = "", is_allowed: bool = False
) -> Iterator[tuple[str, Any, Any, bool]]:
    """Yield each setting that differs: its name, old value and new value, and whether it may differ."""
    values = {field.name: getattr(config, field.name) for field in fields(config)} if is_dataclass(config) else config
    may_change, leaves_open = getattr(config, "may_change", None), getattr(config, "leaves_open", None)
    for name, new in after.items():
        old, value = before.get(name), values.get(name) if isinstance(values, Mapping) else None
        may_differ = is_allowed or (may_change is not None and may_change(name))
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            yield from _differences(old, value, new, f"{prefix}{name}.", may_differ)
        elif leaves_open is not None and leaves_open(name):
            continue
        elif old != new and name in before:  # a setting added in a later version had its default
            yield f"{prefix}{name}", old, new, may_differ
