"""Defines aliases: names such as `champion` that stay with a version until they are set again.

Each is a file beside the versions, so that two that are set at the same time do not affect each
other, and no version is rewritten. `management.py` sets them, `versions.py` reads them.
"""

import contextlib
import json
import posixpath
from dataclasses import asdict, dataclass, fields

from trainer.json_text import json_text
from trainer.model_address import ALIASES, alias_names, version_of
from trainer.storage import files
from trainer.storage.failures import MissingError


@dataclass(frozen=True)
class Alias:
    """Describes one alias.

    Attributes:
        name: The name.
        version: Number of the version that it names.
        set_at: Time at which it was set, UTC, as `2026-11-22T19:08:35Z`.
        user: Who set it.
        host: The machine on which it was set.
        replaced: The version that it named before.
    """

    name: str
    version: int
    set_at: str = ""
    user: str = ""
    host: str = ""
    replaced: int | None = None

    def to_json(self) -> bytes:
        """Returns the content of the alias's file."""
        return (json_text(asdict(self), indent=2, sort_keys=True) + "\n").encode()


def read_aliases(directory: str) -> dict[str, Alias]:
    """Reads the aliases of a folder of versions, by name, sorted.

    Raises:
        InputError: if the file of one is damaged.
    """
    found = {}
    for name in alias_names(directory):
        # An alias may be removed during the listing.
        with contextlib.suppress(MissingError):
            found[name] = read_alias(directory, name)
    return found


def read_alias(directory: str, name: str) -> Alias:
    """Reads one alias.

    Raises:
        InputError: if its file is missing or damaged.
    """
    file = posixpath.join(directory, ALIASES, name)
    content = files.read_bytes(file)
    version = version_of(content, file)
    values = json.loads(content)
    known = {entry.name for entry in fields(Alias)}
    # Someone may have written only the number.
    kept = {key: values[key] for key in known & values.keys()} if isinstance(values, dict) else {}
    return Alias(**{**kept, "name": name, "version": version})
