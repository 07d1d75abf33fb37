"""Lists names for messages, which may be many.

Readers, commands and reports call it. The names come as the message shows them, quoted or escaped.
"""

from collections.abc import Iterable


def named(names: Iterable[str], *, most: int = 3) -> str:
    """Lists the first names, and how many more there are: `a, b, c and 1,234 more`.

    Args:
        names: The names.
        most: Number of names to list.
    """
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return f"{', '.join(every[:most])}{more}"
