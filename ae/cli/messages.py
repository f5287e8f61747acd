"""Messages about a command line: one line each, with the flags that they are about."""

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from ae.cli.arguments import flag_of, flags, flags_by_field, words_of
from ae.utils.errors import one_line
from ae.utils.validation import describe, nearest

_FLAG = r"--[\w.-]*\w"


def with_flags(message: str, config_type: type, args: Sequence[str]) -> str:
    """Replace each field that a message names by its flag, such as `Recipe.lr` by `--recipe.lr`."""
    by_field = flags_by_field(config_type)

    def replacement(match: re.Match[str]) -> str:
        candidates = by_field.get(match[0], [match[0]])
        used = [flag for flag in candidates if any(flag_of(arg) == flag for arg in args)]
        return " or ".join(used or candidates)

    return re.sub(r"\b[A-Z]\w*\.[a-z]\w*", replacement, message)


def unknown_option(arg: str, flags: list[str]) -> str:
    """Return the message for an unknown argument, with the nearest flag."""
    return f"unknown option {arg}{nearest(arg.split('=')[0], flags) or '; --help lists all options'}"


def is_of_command_line(complaint: str, args: Sequence[str]) -> bool:
    """Whether a complaint names a flag of the command line."""
    names = [flag_of(arg) for arg in args]
    return any(flag in names for flag in re.findall(_FLAG, complaint))


def first_complaint(panel: str, config_type: type, args: Sequence[str]) -> str:
    """Return the first complaint of tyro's error panel as one line.

    A wrong value of a flag is reported in the words of `ae.utils.validation`.
    """
    line = _first_section(panel)
    of_group = re.match(r"Error parsing (?!-)\S+: (.*)", line)  # raised by the constructor of a nested dataclass
    if of_group:
        return of_group[1]
    hints = flags(config_type, include_extras=True)
    flag = next((word for word in re.findall(_FLAG, line) if word in hints), None)
    words = None if flag is None else words_of(flag, args)
    if flag is None or words is None:
        return re.sub(r"^Missing from \S+:", "missing:", line.removeprefix("Error parsing "))
    choices = [str(choice) for part in (hints[flag], *get_args(hints[flag])) for choice in _choices(part)]
    suggestion = nearest(words[-1], choices, cutoff=0.0) if words else ""
    return f"{flag} must be {describe(hints[flag])}, got {' '.join(words)!r}{suggestion}"


def _first_section(panel: str) -> str:
    """Return the text of tyro's panel between its title and its first ruler, with a frame or, in ASCII, without."""
    sections = re.split(r"[─-]{10,}", re.sub(r"╭─.*", "", panel))
    texts = [one_line(re.sub(r"[│╭╮╰╯─]", " ", section)) for section in sections]
    texts = [text for text in texts if text] or [""]
    return texts[1] if "╭" not in panel and len(texts) > 1 else texts[0]


def _choices(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) is Literal else ()
