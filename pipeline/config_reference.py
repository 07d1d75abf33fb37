"""Generates docs/configuration.md from the descriptions in the configuration (`make docs`)."""

import datetime
import sys
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.config import PipelineConfig

_HEAD = """# Configuration

One YAML file. Only `input.paths` has to be there; every other key has a default. Unknown keys,
wrong types and combinations that can't work are told in one line each, by key.

```yaml
name: flowers
input: {paths: /data/flowers.zip}
image: {height: 64, width: 64, channels: 3}
```

- `vaeline run --config FILE` reads a file; `--config digits` takes a preset of that name from
  `configs/`.
- `--set trainer.epochs=3` overrides one value; it may be given several times, and later ones win.
- `recipe` fills in what the file and `--set` leave open in `model` and `trainer`: with
  `encoder: conv` the options that were measured on such images ([model.md](model.md#recipes)).
- `vaeline config --config FILE` prints the whole tree as a run would use it, its recipe included.
- `{root}` in any value becomes the folder or address given with `--root`.
- The whole tree, defaults included, is saved as `config.yaml` in the root; the sections that
  determine a model are saved beside it, in `assets.extra/config.yaml`.

This page is made from the code by `make docs`; a test holds it to it.
"""


def render() -> str:
    """Renders the page."""
    lines = [_HEAD]
    top = [
        (name, field)
        for name, field in _fields(PipelineConfig)
        if _section_of(field.annotation) is None
    ]
    lines.extend(_table("", top))
    for name, field in _fields(PipelineConfig):
        section = _section_of(field.annotation)
        if section is not None:
            lines.extend(_section(name, section))
    return "\n".join(lines) + "\n"


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## `{path}`\n"
    yield (model.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ") + "\n"
    values = [(n, f) for n, f in _fields(model) if _section_of(f.annotation) is None]
    yield from _table(path, values)
    for name, field in _fields(model):
        section = _section_of(field.annotation)
        if section is not None and not (path == "bulk" and name == "input"):
            entry = ".NAME" if get_origin(field.annotation) is dict else ""
            yield from _section(f"{path}.{name}{entry}", section)


def _table(path: str, fields: list[tuple[str, FieldInfo]]) -> Iterator[str]:
    if not fields:
        return
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in fields:
        key = f"{path}.{name}" if path else name
        meaning = (field.description or "").rstrip(".")
        yield f"| `{key}` | {_kind(field.annotation)} | {_default(field)} | {meaning} |"


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def _section_of(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return models[0] if models else None


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, UnionType):
        kinds = [_kind(part) for part in get_args(annotation) if part is not type(None)]
        return " or ".join(kinds)
    if origin in (tuple, list):
        return f"list of {_kind(get_args(annotation)[0])}"
    if origin is dict:
        return f"mapping of {' to '.join(_kind(part) for part in get_args(annotation))}"
    names = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Any: "value",
        datetime.datetime: "time",
    }
    return names.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "*needed*"
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        shown = ", ".join(str(item) for item in value)
        return f"`[{shown}]`"
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(render())
