"""Rolls back, names and prunes versions; `vaeline models` and the Pusher call it."""

import contextlib
import posixpath
from collections import defaultdict
from dataclasses import replace
from typing import Final

from components.model_push.aliases import Alias, read_alias
from components.model_push.cloud_store import CloudStore
from components.model_push.local_store import LocalStore
from components.model_push.record import sign, sign_record
from components.model_push.versions import Version, VersionStore
from trainer.errors import InputError
from trainer.model_address import ALIASES, LATEST, require_alias, resolve_model
from trainer.storage import files

_PUSHED: Final = "pushed"
"""Where `push.directory` is in a root, unless it is set."""


def open_store(address: str, group: str = "") -> VersionStore:
    """Opens a folder of versions.

    Args:
        address: A folder, or an address in a store such as `gs://bucket/prefix`.
        group: The group that can read new versions in a folder.

    Raises:
        StorageError: if the store is not supported.
    """
    return CloudStore(address) if files.is_remote(address) else LocalStore(address, group)


def served_version(store: VersionStore) -> Version:
    """Returns the version that TF Serving, the bulk job and `latest` refer to.

    Raises:
        InputError: if there is none.
    """
    complete = store.complete()
    if not complete:
        _refuse_root(store)
        raise InputError(f"{store.address}: there is no pushed model; `vaeline run` pushes one")
    return complete[-1]


def _refuse_root(store: VersionStore) -> None:
    """Raises for a folder without versions if those are where its pipeline pushes them."""
    nested = posixpath.join(store.address, _PUSHED)
    if open_store(nested).complete():
        raise InputError(
            f"{store.address}: the root of a pipeline, whose models are in {nested}; give that"
            " folder"
        )


def roll_back(store: VersionStore, *, to: int | None = None, user: str = "") -> Version:
    """Serves an earlier model again by publishing its files as a new version.

    TF Serving's default policy serves the highest number, so a rollback has to create a higher
    number. Servers need no reconfiguration, and the history is kept.

    Args:
        store: The store of versions.
        to: The version to go back to; by default the model that was served before this one.
        user: The user name to record; if empty, that of the account.

    Returns:
        The new version.

    Raises:
        InputError: if there is no version to go back to, or it is already served.
    """
    served = served_version(store)
    target = store.find(to) if to is not None else _before(store.complete(), served)
    if target is None:
        raise InputError(
            f"{store.address}: no other model was served before {served.number}; push another, or"
            " name a version with --to"
        )
    if target.is_same_model(served):
        raise InputError(
            f"{store.address}: version {served.number} is the model of {target.number} already"
        )
    record = replace(target.record, copy_of=target.origin, rolled_back_from=served.number)
    return store.republish(target.number, sign_record(record, user))


def prunable(store: VersionStore, *, keep: int) -> list[Version]:
    """Lists the versions that can be removed.

    Args:
        store: The store of versions.
        keep: Number of newest versions to keep, including the served one.

    Returns:
        The other versions, oldest first, without those that `latest` and aliases name.

    Raises:
        InputError: if not even the served version would be kept.
    """
    if keep < 1:
        raise InputError(f"--keep {keep}: at least one version has to stay, the served one")
    named = {store.latest(), *aliases_by_version(store)}
    return [version for version in store.complete()[:-keep] if version.number not in named]


def find_version(store: VersionStore, name: str) -> Version:
    """Returns a complete version.

    Args:
        store: The store of versions.
        name: Its number, an alias, or `latest`.

    Raises:
        InputError: if there is no such version or alias.
    """
    if not store.versions():
        _refuse_root(store)
    if name.isdecimal():
        return store.find(int(name))
    address = f"{store.address}@{name if name == LATEST else require_alias(name)}"
    return store.find(int(posixpath.basename(resolve_model(address))))


def set_alias(store: VersionStore, name: str, version: int, *, user: str = "") -> Alias:
    """Lets a name refer to a version, whatever it referred to before.

    Args:
        store: The store of versions.
        name: The name.
        version: Number of a complete version.
        user: The user name to record; if empty, that of the account.

    Returns:
        The alias; of two that are set at the same time, the last one stays.

    Raises:
        InputError: if the name can't be an alias, or there is no such version.
    """
    require_alias(name)
    # A prune must not remove the version in between.
    with store.exclusive():
        store.find(version)
        replaced = None
        # There may be none, or its file may be damaged, and is replaced.
        with contextlib.suppress(InputError):
            replaced = read_alias(store.address, name).version
        alias = Alias(name, version, *sign(user), replaced)
        store.write(f"{ALIASES}/{name}", alias.to_json())
    return alias


def remove_alias(store: VersionStore, name: str) -> Alias:
    """Removes an alias; its version stays.

    Returns:
        The alias as it was.

    Raises:
        InputError: if there is no such alias.
    """
    known = store.aliases()
    if name not in known:
        there = ", ".join(known) or "none"
        raise InputError(f"{store.address}: there is no alias {name!r}; there is {there}")
    files.remove(posixpath.join(store.address, ALIASES, name))
    return known[name]


def aliases_by_version(store: VersionStore) -> dict[int, list[str]]:
    """Returns the names of each version that has any, also of versions that are gone."""
    found: dict[int, list[str]] = defaultdict(list)
    for name, alias in store.aliases().items():
        found[alias.version].append(name)
    return dict(found)


def _before(complete: list[Version], served: Version) -> Version | None:
    """Finds the newest version of another model that precedes the served model's first push."""
    earlier = [
        version
        for version in complete
        if version.number < served.origin and not version.is_same_model(served)
    ]
    return earlier[-1] if earlier else None
