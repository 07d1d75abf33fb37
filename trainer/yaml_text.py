"""Reads YAML as people mean it; `pipeline/config.py` and `python -m trainer` call it.

PyYAML follows YAML 1.1, in which a class named `no` is a boolean.
"""

import re
from typing import Any, Final

import yaml

_BOOLEAN: Final = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """Takes only `true` and `false` for booleans, as YAML 1.2 does."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    _BOOLEAN, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def parse_yaml(text: str) -> Any:
    """Returns the value of a text, in which `on`, `off`, `yes` and `no` are words.

    Options that want a boolean take these words, too.

    Raises:
        yaml.YAMLError: if the text is not YAML.
    """
    return yaml.load(text, _Loader)
