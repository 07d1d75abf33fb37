"""Reads the file of a configuration and describes its faults, a line for each.

`pipeline/config.py` and `python -m trainer` call it.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from trainer.yaml_text import parse_yaml

HIDDEN_VALUE: Final = "hidden_value"
"""Kind of the errors whose value no message may show."""
_QUOTES: Final = "; put a value that begins with a sign such as * { [ & @ % in quotes"
_YAML_HINTS: Final = {
    r"'\t' that cannot start any token": "; indent with spaces",
    "cannot start any token": _QUOTES,
    "expected alphabetic or numeric character": _QUOTES,
    "but found '<scalar>'": _QUOTES,
}
"""What to do, by a part of PyYAML's reason."""


def read_tree(path: Path) -> dict[str, Any]:
    """Reads the keys and values of a YAML file; none if it is empty.

    Raises:
        ValueError: it cannot be read, is not YAML or has no keys; the message begins with its name.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {yaml_fault(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected keys and values, got {type(tree).__name__}")
    return tree


def yaml_fault(error: yaml.YAMLError) -> str:
    """Returns the place and the reason for which a text is not YAML."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = str(error.problem)
        hint = next((hint for part, hint in _YAML_HINTS.items() if part in problem), "")
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}"
    return " ".join(str(error).split())


def config_faults(error: ValidationError, source: str, root: type[BaseModel]) -> list[str]:
    """Returns a line for each invalid key of a tree.

    Args:
        error: What pydantic found.
        source: Start of each line, such as the file.
        root: The tree that was validated, to suggest the key that was meant.
    """
    lines = []
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            *above, key = map(str, detail["loc"])
            known = _keys_at(root, above)
            # Messages about images name keys without their section, such as limits.max_pixels.
            inside = [f"{name}.{key}" for name in known if key in _keys_at(root, [*above, name])]
            close = inside or difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            lines.append(f"{source}: {place}: unknown key; {hint}")
        else:
            reason = _reason(detail["type"], detail["msg"])
            hidden = detail["type"] == HIDDEN_VALUE or isinstance(detail["input"], dict)
            got = "" if hidden else f", got {detail['input']!r}"
            is_named = detail["type"] == "value_error" and f"{place}." in f"{reason}."
            prefix = "" if is_named or not place else f"{place}: "
            lines.append(f"{source}: {prefix}{reason}{got}")
    return lines


def _reason(kind: str, message: str) -> str:
    """Returns pydantic's message in the words of YAML."""
    if kind in ("model_type", "dict_type"):
        return "expected keys and values"
    if kind == "tuple_type":
        return "expected a list, such as [a, b]"
    if kind == "value_error":
        # Our own words, which may name a path of the user.
        return message.removeprefix("Value error, ")
    # Lists are tuples in the code, because the tree is frozen.
    return message.replace("tuple", "list").replace("Tuple", "List")


def _keys_at(model: type[BaseModel], location: Iterable[str]) -> list[str]:
    parts = iter(location)
    for part in parts:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        field = fields.get(part)
        if field is None:
            return []
        candidates = [field.annotation, *get_args(field.annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        model = models[0]
        if get_origin(field.annotation) in (dict, tuple):
            # The next part is a key of the mapping or an index of the list.
            next(parts, None)
    return [field.alias or name for name, field in model.model_fields.items()]
