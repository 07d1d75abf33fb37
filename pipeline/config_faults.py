"""Describes the faults of a configuration, a line for each; `config.py` reports them."""

import difflib
from collections.abc import Iterable
from typing import get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError


def yaml_fault(error: yaml.YAMLError) -> str:
    """Returns the place and the reason for which a text is not YAML."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
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
            reason = detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "tuple_type":
                reason = "expected a list, such as [a, b]"
            got = "" if isinstance(detail["input"], dict) else f", got {detail['input']!r}"
            is_named = detail["type"] == "value_error" and f"{place}." in f"{reason}."
            prefix = "" if is_named or not place else f"{place}: "
            lines.append(f"{source}: {prefix}{reason}{got}")
    return lines


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
