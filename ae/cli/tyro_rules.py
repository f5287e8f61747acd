"""Rules for tyro: how it reads numbers, paths, and choices beside functions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ae.cli.arguments import choices_beside_function
from ae.utils.validation import checked, describe

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

_CONVERT: dict[Any, Callable[[str], Any]] = {int: int, float: float, Path: str}


def registry() -> "ConstructorRegistry":
    """Return rules that read numbers and paths as `ae.utils.validation` does, and the choices beside a function."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    rules = ConstructorRegistry()

    @rules.primitive_rule
    def number_or_path(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[Any] | None":
        kind: Any = info.type
        if kind not in _CONVERT:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=partial(_read, kind),
            is_instance=lambda value: isinstance(value, kind),
            str_from_instance=lambda value: [str(value)],
        )

    @rules.primitive_rule
    def choice_or_function(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[Any] | None":
        choices = get_args(choices_beside_function(info.type))
        if not choices:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{{{','.join(choices)}}}",
            instance_from_str=partial(_choose, choices),
            is_instance=lambda value: value in choices or callable(value),
            str_from_instance=lambda value: [str(value)],
            choices=choices,
        )

    return rules


def _read(kind: Any, words: list[str]) -> Any:
    try:
        return checked(_CONVERT[kind](words[0]), kind, "")
    except ValueError as error:
        raise ValueError(f"must be {describe(kind)}, got {words[0]!r}") from error


def _choose(choices: tuple[str, ...], words: list[str]) -> str:
    if words[0] not in choices:
        raise ValueError(f"invalid choice '{words[0]}', expected one of {choices}")
    return words[0]
