"""Reads a label from a value of any kind, for records, manifests and side files alike.

`tfrecord.py`, `tfds.py`, `parquet.py`, `webdataset.py`, `idx.py` and `manifest.py` call it.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Final

_NUMBER: Final = re.compile(r"[+-]?\d{1,18}")
_WHOLE: Final = re.compile(r"([+-]?\d{1,18})\.0*")


class LabelValueError(ValueError):
    """Reports a value that is no label; the message says why and fits into one line."""


class UnnamedNumberError(LabelValueError):
    """Reports the number of a class that has no name."""


def read_label(value: Any, names: Sequence[str] = (), *, is_text: bool = False) -> str | None:
    """Returns the class that a value names.

    | value | class |
    | --- | --- |
    | None, NaN, nothing but spaces | None |
    | `"cat"`, `b"cat"` | `cat` |
    | `3`, `3.0`, a scalar of NumPy or Arrow | `3`, or the name with this number |
    | `True` | `true` |
    | a list with one value | as the value |
    | any other list, a mapping | `LabelValueError` |

    Args:
        value: The value.
        names: Class names by number; empty if numbers are the names.
        is_text: Whether the source has text only, such as CSV, in which `1.0` is a number.

    Raises:
        UnnamedNumberError: if it is a number without a name.
        LabelValueError: if it is no label for another reason.
    """
    if hasattr(value, "as_py"):
        value = value.as_py()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode("utf-8", "surrogateescape")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value.strip()
        whole = _WHOLE.fullmatch(text) if is_text else None
        return _named(whole.group(1) if whole else text, names) if text else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float):
        return _named(str(value), names)
    kind = "list" if isinstance(value, list | tuple) else type(value).__name__
    raise LabelValueError(f"a {kind} is no label: {str(value)[:60]}")


def read_record_label(value: Any, names: Sequence[str]) -> str | None:
    """Returns the class that a value of a data set names; see `read_label`.

    A negative number is no label: so TensorFlow's image records, TFDS and Hugging Face write that
    the class is missing or hidden.

    Raises:
        LabelValueError: if it is no label.
    """
    return None if isinstance(value, int | float) and value < 0 else read_label(value, names)


def _named(text: str, names: Sequence[str]) -> str:
    """Replaces a class's number by its name if names are known."""
    if not names or not _NUMBER.fullmatch(text):
        return text
    number = int(text)
    if not 0 <= number < len(names):
        raise UnnamedNumberError(
            f"number {number} has no name among the {len(names)} of labels.names"
        )
    return names[number]
