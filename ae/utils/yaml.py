"""YAML with numbers as in YAML 1.2, unique keys, and a limit on the values that aliases expand to."""

import re
from typing import Any

from yaml import AliasEvent, MappingNode, Node, SafeLoader, ScalarNode, SequenceNode, YAMLError, load

from ae.utils.errors import InputError, one_line

_MAX_VALUES = 100_000  # in a file, after the expansion of aliases
_INT, _FLOAT, _TIME, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "merge"))
_INTEGER = r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+"
_REAL = r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


def load_yaml(text: str) -> Any:
    """Parse a YAML document of plain values, lists and dicts; raises InputError for anything else.

    Numbers are those of YAML 1.2: `1e-4` is a number and `010` is ten. `1:30` and `2020-01-01` are texts. PyYAML's
    own loaders read YAML 1.1.
    """
    try:
        return load(text, _Loader)  # a SafeLoader
    except RecursionError as error:
        raise InputError("can't read it: it is nested too deeply") from error
    except InputError:
        raise
    except (
        YAMLError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
    ) as error:  # invalid tags raise any
        raise InputError(f"can't read it: {one_line(error)}") from error


class _Loader(SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}  # values below each node, by the node's id

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        is_alias, line = self.check_event(AliasEvent), self.peek_event().start_mark.line + 1
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if is_alias and id(node) not in self._sizes:
            raise InputError(f"line {line}: an alias refers to a node that contains it")
        if not is_alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _children(node))
        if self._sizes[id(node)] > _MAX_VALUES:
            raise InputError(f"line {line}: more than {_MAX_VALUES:,} values after the expansion of aliases")
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, ScalarNode) and key.tag != _MERGE]
        if len(set(keys)) < len(keys):
            _, repeated = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"line {node.start_mark.line + 1}: the key {repeated:.60} is there twice")
        return node

    def construct_integer(self, node: ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, SequenceNode) else []


def _use_yaml_1_2_numbers() -> None:
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT, _TIME)]
        for first, resolvers in SafeLoader.yaml_implicit_resolvers.items()
    }
    _Loader.add_implicit_resolver(_INT, re.compile(f"^(?:{_INTEGER})$"), list("-+0123456789"))
    _Loader.add_implicit_resolver(_FLOAT, re.compile(f"^(?:{_REAL})$"), list("-+.0123456789"))
    _Loader.add_constructor(_INT, _Loader.construct_integer)


_use_yaml_1_2_numbers()
