"""Parse GraphQL queries, and select exactly the fields of a query; an unknown field is an error."""

import re
from typing import Any

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\.\.\.|[\w$-]+(?:\.\d+)?|[{}()\[\]:@!=]')

Selection = dict[str, tuple[str, "Selection"]]
"""The fields that a query selects: {name in the answer: (field, selection of the field's value)}."""


class UnknownFieldError(Exception):
    """A query selects a field that the server does not know."""


def parse(query: str) -> tuple[str, Selection]:
    """Return the name of the query's operation, and its selection with expanded fragments."""
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
    return operation[0], _expand(operation[1], fragments)


class _Parser:
    """Read selections as lists of (alias, field, selection), ("...", fragment, []) and ("...", "", selection)."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def take(self, expected: str | None = None) -> str:
        token = self.tokens.pop()
        assert expected is None or token == expected, f"expected {expected}, got {token}"
        return token

    def next_is(self, token: str) -> bool:
        return bool(self.tokens) and self.tokens[-1] == token

    def skip_arguments(self) -> None:
        """Skip (...): the operation's variables hold all arguments."""
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
        fields: list[Any] = []
        self.take("{")
        while not self.next_is("}"):
            name = self.take()
            if name == "...":
                fragment = "" if self.next_is("on") else self.take()
                if not fragment:
                    self.take("on")
                    self.take()
                self.skip_directives()
                fields.append(("...", fragment, [] if fragment else self.selection()))
                continue
            field = name
            if self.next_is(":"):
                self.take(":")
                field = self.take()
            self.skip_arguments()
            self.skip_directives()
            fields.append((name, field, self.selection() if self.next_is("{") else []))
        self.take("}")
        return fields


def _expand(selected: list[Any], fragments: dict[str, list[Any]]) -> Selection:
    expanded: Selection = {}
    for name, field, inner in selected:
        if name == "...":
            selection = _expand(fragments[field] if field else inner, fragments)
        else:
            selection = {name: (field, _expand(inner, fragments))}
        for alias, (real_field, fields) in selection.items():
            expanded[alias] = (real_field, {**expanded.get(alias, ("", {}))[1], **fields})
    return expanded


def select(value: Any, selection: Selection) -> Any:
    """Select fields of `value`; raises UnknownFieldError where `value` lacks a field."""
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
