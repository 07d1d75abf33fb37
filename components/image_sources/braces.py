"""Expands braces in paths as shells do: `shard-{00000..00002}.tar`, `{train,val}/*.tar`.

WebDataset names its shards like this. `locate.py` and `spans.py` use it; the marks of spans, such
as `{SPAN}`, have neither a comma nor two dots and stay.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Final

from trainer.errors import InputError

_MOST: Final = 1_000_000
"""Largest number of paths that one range may stand for."""
_RANGE: Final = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")


def expand_braces(paths: Iterable[str]) -> Iterator[str]:
    """Expands the braces of all paths, in order.

    A path that exists as it is written is kept. Numbers have as many digits as the longer limit if
    one of them starts with 0, as in a shell.

    Args:
        paths: Paths of an input.

    Raises:
        InputError: if a range stands for too many paths.
    """
    for path in paths:
        if "{" not in path or os.path.exists(path):
            yield path
        else:
            yield from _expanded(path)


def _expanded(path: str) -> Iterator[str]:
    for start, char in enumerate(path):
        if char != "{":
            continue
        parts, stop = _parts(path, start)
        limits = _RANGE.fullmatch(parts[0])
        if len(parts) == 1:
            if limits is None:
                # The mark of a span, or a brace of a name.
                continue
            parts = _numbers(path, limits)
        for part in parts:
            for inner in _expanded(part):
                for rest in _expanded(path[stop:]):
                    yield path[:start] + inner + rest
        return
    yield path


def _parts(path: str, start: int) -> tuple[list[str], int]:
    """Divides the group that opens at `start` at its own commas.

    Returns:
        The parts, and the position behind the group; the text as one part if it is not closed.
    """
    depth, begin = 0, start + 1
    parts: list[str] = []
    for at in range(start, len(path)):
        if path[at] == "{":
            depth += 1
        elif path[at] == "}":
            depth -= 1
        if (path[at] == "," and depth == 1) or depth == 0:
            parts.append(path[begin:at])
            begin = at + 1
        if depth == 0:
            return parts, at + 1
    return [""], len(path)


def _numbers(path: str, limits: re.Match[str]) -> list[str]:
    """Returns the numbers of a range as text."""
    first, last, step = limits.groups()
    start, stop = int(first), int(last)
    stride = max(abs(int(step or 1)), 1) * (1 if stop >= start else -1)
    if abs(stop - start) // abs(stride) >= _MOST:
        raise InputError(f"{path}: {{{limits.group()}}} stands for more than {_MOST:,} paths")
    padded = any(re.match(r"-?0\d", limit) for limit in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [f"{number:0{width}d}" for number in range(start, stop + stride // abs(stride), stride)]
