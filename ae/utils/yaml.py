"""YAML as people write it: numbers as in YAML 1.2, no key twice, no text that grows when it is read."""

import re
from typing import Any

from yaml import AliasEvent, MappingNode, Node, SafeLoader, ScalarNode, SequenceNode, YAMLError, load

from ae.utils.errors import InputError, one_line

_LARGEST = 100_000  # values of a file, each as often as aliases repeat it
_INT, _FLOAT, _TIME, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "merge"))
_INTEGER = r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+"
_REAL = r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


def load_yaml(text: str) -> Any:
    """The content of a YAML document, of plain values, lists and dicts; raises InputError for what is none.

    `1e-4` is a number, as in YAML 1.2, where PyYAML, which reads YAML 1.1, sees a text; `010` is ten, and `1:30` and
    `2020-01-01` are texts.
    """
    try:
        return load(text, _Loader)  # a SafeLoader
    except RecursionError as error:
        raise InputError("can't read it: it is nested too deeply") from error
    except InputError:
        raise
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:  # of tags with odd values, too
        raise InputError(f"can't read it: {one_line(error)}") from error


class _Loader(SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}  # values in a node, by the node's identity

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        is_alias, line = self.check_event(AliasEvent), self.peek_event().start_mark.line + 1
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if is_alias and id(node) not in self._sizes:
            raise InputError(f"line {line}: an alias is within what it stands for")
        if not is_alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in _parts(node))
        if self._sizes[id(node)] > _LARGEST:
            raise InputError(f"line {line}: more than {_LARGEST:,} values, as often as aliases repeat them")
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, ScalarNode) and key.tag != _MERGE]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"line {node.start_mark.line + 1}: the key {twice[1]:.60} is there twice")
        return node

    def construct_integer(self, node: ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def _parts(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, SequenceNode) else []


def _set_up() -> None:
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT, _TIME)]
        for first, resolvers in SafeLoader.yaml_implicit_resolvers.items()
    }
    _Loader.add_implicit_resolver(_INT, re.compile(f"^(?:{_INTEGER})$"), list("-+0123456789"))
    _Loader.add_implicit_resolver(_FLOAT, re.compile(f"^(?:{_REAL})$"), list("-+.0123456789"))
    _Loader.add_constructor(_INT, _Loader.construct_integer)


_set_up()
