"""Translates globs to regular expressions for names of objects; `object_store.py` calls it."""

import re
from typing import Final

_MAGIC: Final = re.compile(r"(\*\*|\*|\?|\[!?[^]/]+\])")
_DASH: Final = re.escape("-")
_SET: Final = re.compile(r"\[!?[^]/]+\]")


def glob_expression(glob: str) -> re.Pattern[str]:
    """Returns the regular expression of a glob: `*`, `?`, `[...]`, and `**` across folders."""
    return re.compile("".join(map(_expression, _MAGIC.split(glob))))


def _expression(part: str) -> str:
    """Returns the regular expression of one part of a glob, such as `*`, `[0-4]` or a text."""
    literal = re.escape(part)
    if not _SET.fullmatch(part):
        return {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, literal)
    negation, members = ("^/", part[2:-1]) if part[1] == "!" else ("", part[1:-1])
    expression = f"[{negation}{re.escape(members).replace(_DASH, '-')}]"
    try:
        re.compile(expression)
    except re.error:  # Such as the range z-a.
        return literal
    return f"(?:{expression}|{literal})"
