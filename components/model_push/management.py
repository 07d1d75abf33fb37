"""Rolls back and prunes versions in a store; `vaeline models` and the Pusher call it."""

from dataclasses import replace

from components.model_push.cloud_store import CloudStore
from components.model_push.local_store import LocalStore
from components.model_push.record import sign_record
from components.model_push.versions import Version, VersionStore
from trainer.errors import InputError
from trainer.storage import files


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
        raise InputError(f"{store.address}: there is no pushed model; `vaeline run` pushes one")
    return complete[-1]


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
    if target.origin == served.origin:
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
        The other versions, oldest first, without the one that `latest` names.

    Raises:
        InputError: if not even the served version would be kept.
    """
    if keep < 1:
        raise InputError(f"--keep {keep}: at least one version has to stay, the served one")
    latest = store.latest()
    return [version for version in store.complete()[:-keep] if version.number != latest]


def _before(complete: list[Version], served: Version) -> Version | None:
    """Finds the newest version of another model that precedes the served model's first push."""
    earlier = [
        version
        for version in complete
        if version.number < served.origin and version.origin != served.origin
    ]
    return earlier[-1] if earlier else None
