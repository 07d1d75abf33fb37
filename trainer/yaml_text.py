"""Reads YAML as people mean it; `pipeline/config.py` and `python -m trainer` call it.

PyYAML follows YAML 1.1, in which a class named `no` is a boolean.
"""

import re
from typing import Any, Final

import yaml

_BOOLEAN: Final = "tag:yaml.org,2002:bool"
_MERGE: Final = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Takes only `true` and `false` for booleans, as YAML 1.2 does, and a key only once."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuses a key that is given twice, of which PyYAML keeps the last one."""
        # Before `<<` is resolved, whose keys may be given again.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Names the place of a value that cannot exist, such as the date 2026-13-01."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(
                None, None, str(error), node.start_mark
            ) from error


_Loader.add_implicit_resolver(
    _BOOLEAN, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def parse_yaml(text: str) -> Any:
    """Returns the value of a text, in which `on`, `off`, `yes` and `no` are words.

    Options that want a boolean take these words, too.

    Raises:
        yaml.YAMLError: if the text is not YAML, or gives a key twice.
    """
    return yaml.load(text, _Loader)
