"""Resolves addresses that name a pushed model by an alias: `runs/flowers/pushed@champion`.

`components/model_push/aliases.py` writes aliases. Everything that takes the folder of a model
resolves it here: the bulk job, `vaeline predict`, the weights of a backbone, a warm start.
"""

import json
import posixpath
import re
from typing import Final

from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.failures import MissingError

ALIASES: Final = "aliases"
"""Folder of the aliases, in the folder of the versions."""
LATEST: Final = "latest"
"""File with the number of the served version, which is an alias too."""
_MODEL_FILE: Final = "saved_model.pb"

_NAME: Final = "[A-Za-z][A-Za-z0-9_.-]{0,63}"
_ADDRESS: Final = re.compile(f"(?P<directory>.+)@(?P<name>{_NAME})/?")


def require_alias(name: str) -> str:
    """Returns a name that an alias can have.

    Raises:
        InputError: if it could be taken for something else.
    """
    if name == LATEST or not re.fullmatch(_NAME, name):
        raise InputError(
            f"{name!r} can't be an alias; give a letter, then up to 63 letters, digits, '_', '.' or"
            f" '-', but not {LATEST!r}, which always names the served version"
        )
    return name


def resolve_model(address: str) -> str:
    """Returns the folder that an address names.

    Args:
        address: A folder or file, which is returned as it is; or `DIRECTORY@ALIAS`, where
            DIRECTORY contains versions, and ALIAS is `latest` or the name of an alias.

    Raises:
        InputError: if there is no such alias, or its version was removed.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None or files.exists(address) or files.is_folder(address):
        return address
    directory, name = parts["directory"], parts["name"]
    place = name if name == LATEST else f"{ALIASES}/{name}"
    try:
        number = version_of(files.read_bytes(posixpath.join(directory, place)), address)
    except MissingError:
        reason = "no such folder; give the folder that models are pushed to"
        if files.is_folder(directory):
            known = ", ".join(alias_names(directory)) or "none"
            reason = f"no alias {name!r}, there is {known}; set it with `vaeline models alias`"
        raise InputError(f"{address}: {directory}: {reason}") from None
    folder = posixpath.join(directory, str(number))
    if not files.exists(posixpath.join(folder, _MODEL_FILE)):
        raise InputError(
            f"{address}: names version {number}, which is not there; `vaeline models alias"
            f" {directory} {name} VERSION` sets it to another"
        )
    return folder


def alias_names(directory: str) -> list[str]:
    """Lists the aliases of a folder of versions, sorted; `latest` is not among them."""
    names = files.list_names(posixpath.join(directory, ALIASES))
    return [name for name in names if re.fullmatch(_NAME, name)]


def version_of(content: bytes, place: str) -> int:
    """Reads the version's number from the content of an alias or of `latest`.

    Raises:
        InputError: if there is none; the message begins with `place`.
    """
    try:
        found = json.loads(content)
        return int(found["version"] if isinstance(found, dict) else found)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{place}: names no version's number; set it again") from error
