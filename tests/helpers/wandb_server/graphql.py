"""As much of GraphQL as it takes to answer a query with exactly what it asks for, and to notice what is not known."""

import re
from typing import Any

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\.\.\.|[\w$-]+(?:\.\d+)?|[{}()\[\]:@!=]')

Selection = dict[str, tuple[str, "Selection"]]
"""What is asked of an object: {name in the answer: (field, what is asked of its value)}."""


class UnknownFieldError(Exception):
    """A field that was asked for and is not known."""


def parse(query: str) -> tuple[str, Selection]:
    """The name of the query's one operation, and what it selects, with its fragments filled in."""
    parser = _Parser(_TOKEN.findall(re.sub(r"#.*", "", query)))
    operation: tuple[str, list[Any]] | None = None
    fragments: dict[str, list[Any]] = {}
    while parser.tokens:
        match parser.take():
            case "fragment":
                name, _, _ = parser.take(), parser.take("on"), parser.take()
                fragments[name] = parser.selection()
            case _:
                name = parser.take()
                parser.skip_arguments()
                operation = name, parser.selection()
    assert operation is not None
    return operation[0], _fill_in(operation[1], fragments)


class _Parser:
    """Reads selections as lists of (alias, field, selection), ("...", fragment, []) and ("...", "", selection)."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def take(self, expected: str | None = None) -> str:
        token = self.tokens.pop()
        assert expected is None or token == expected, f"expected {expected}, got {token}"
        return token

    def next_is(self, token: str) -> bool:
        return bool(self.tokens) and self.tokens[-1] == token

    def skip_arguments(self) -> None:
        """Past (...), whatever it holds: the operation's variables say it all."""
        if self.next_is("("):
            depth = 0
            while True:
                depth += {"(": 1, ")": -1}.get(self.take(), 0)
                if depth == 0:
                    return

    def skip_directives(self) -> None:
        while self.next_is("@"):
            self.take("@")
            self.take()
            self.skip_arguments()

    def selection(self) -> list[Any]:
        found: list[Any] = []
        self.take("{")
        while not self.next_is("}"):
            name = self.take()
            if name == "...":
                fragment = "" if self.next_is("on") else self.take()
                if not fragment:
                    self.take("on")
                    self.take()
                self.skip_directives()
                found.append(("...", fragment, [] if fragment else self.selection()))
                continue
            field = name
            if self.next_is(":"):
                self.take(":")
                field = self.take()
            self.skip_arguments()
            self.skip_directives()
            found.append((name, field, self.selection() if self.next_is("{") else []))
        self.take("}")
        return found


def _fill_in(selected: list[Any], fragments: dict[str, list[Any]]) -> Selection:
    filled: Selection = {}
    for name, field, inner in selected:
        if name == "...":
            part = _fill_in(fragments[field] if field else inner, fragments)
        else:
            part = {name: (field, _fill_in(inner, fragments))}
        for alias, (known_field, known) in part.items():
            filled[alias] = (known_field, {**filled.get(alias, ("", {}))[1], **known})
    return filled


def select(value: Any, selection: Selection) -> Any:
    """The part of `value` that is asked for; raises UnknownFieldError where it has not got that."""
    if not selection or value is None:
        return value
    if isinstance(value, list):
        return [select(item, selection) for item in value]
    answer = {}
    for alias, (field, inner) in selection.items():
        if field not in value:
            raise UnknownFieldError(field)
        answer[alias] = select(value[field], inner)
    return answer
