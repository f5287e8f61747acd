"""Arguments in the form that the agents of W&B's sweeps write."""

import ast
from typing import Any, get_args, get_origin

from ae.cli.arguments import flag_of, flags, positional, to_args
from ae.utils.errors import InputError


def from_agent(arg: str, config_type: type) -> list[str]:
    """Rewrite an argument with a Python literal, `--flag=[1, 2]`, to our arguments; return any other unchanged."""
    name, has_value, text = arg.partition("=")
    hint = flags(config_type).get(flag_of(arg))
    types = hint, *get_args(hint)
    if name.removeprefix("--") in positional(config_type) and arg.startswith("--"):
        raise InputError(f"{name} is given by its place, without a name: {name.removeprefix('--').upper()}")
    if hint is bool and has_value and text not in ("True", "False"):
        raise InputError(f"{name} must be True or False, got {text!r}; without a value it is True")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [arg]
    match value:
        case dict() if name.startswith("--"):
            nested: Any = value
        case list() | tuple() if any(get_origin(part) is tuple for part in types):
            nested = list(value)
        case bool() if bool in types:
            nested = value
        case _:
            return [arg]
    for part in reversed(name.removeprefix("--").split(".")):
        nested = {part: nested}
    return to_args(config_type, nested)
