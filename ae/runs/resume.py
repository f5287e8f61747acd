"""What of a run's configuration may be another when it is continued."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ae.utils.errors import InputError


def changes(before: Mapping[str, Any], config: Any, after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The settings of `config` that differ from `before`, as {name: [before, after]}; `after` is `config` as JSON.

    A dataclass says with a method `may_change(name)` which of its fields may differ; raises InputError for others.
    """
    found = {name: [old, new] for name, old, new, _ in _differences(before, config, after)}
    refused = [name for name, *_, may in _differences(before, config, after) if not may]
    if refused:
        listed = ", ".join(f"{name} {found[name][0]} -> {found[name][1]}" for name in refused)
        raise InputError(f"a run can't be continued with another {listed}; start from its weights with --run.fork")
    return found


def _differences(
    before: Mapping[str, Any], config: Any, after: Mapping[str, Any], prefix: str = "", may: bool = False
) -> Iterator[tuple[str, Any, Any, bool]]:
    """Each value that differs: its name, the old value, the new one, and whether it may."""
    parts = {field.name: getattr(config, field.name) for field in fields(config)} if is_dataclass(config) else config
    for name, new in after.items():
        old, part = before.get(name), parts.get(name) if isinstance(parts, Mapping) else None
        may_change = getattr(config, "may_change", None)
        allowed = may or (may_change is not None and may_change(name))
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            yield from _differences(old, part, new, f"{prefix}{name}.", allowed)
        elif old != new and name in before:  # a setting that is new in this version was as its default is
            yield f"{prefix}{name}", old, new, allowed
