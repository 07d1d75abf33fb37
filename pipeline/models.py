"""`vaeline models`: the pushed versions listed, rolled back and pruned, for people and as JSON."""

from dataclasses import asdict
from typing import Any

from components.model_push.management import open_store, prunable, roll_back, served_version
from components.model_push.versions import Version, VersionStore
from pipeline.console import Terminal

_HEADER = ("version", "", "pushed", "by", "from", "metrics", "size")
# Shown in the table where a record has them, under any of the names that evaluations gave them.
_SHOWN_METRICS = {
    "accuracy": ("sparse_categorical_accuracy", "accuracy"),
    "log loss": ("sparse_categorical_crossentropy", "log_loss"),
}


def list_versions(terminal: Terminal, directory: str) -> dict[str, Any]:
    """Shows every version of a folder, the newest first.

    Args:
        terminal: Where it is shown.
        directory: The folder or `gs://` prefix that models are pushed to.

    Returns:
        The same in a form for JSON.

    Raises:
        InputError: There is none, or it can't be read.
    """
    store = open_store(directory)
    served = served_version(store)
    versions = store.versions()
    taken_back = {version.record.rolled_back_from for version in versions}
    terminal.table(
        f"models in {store.address}",
        [_row(version, served.number, taken_back) for version in reversed(versions)],
        header=_HEADER,
    )
    latest = store.latest()
    if latest != served.number:
        terminal.say(
            f"served is {served.number}, but `latest` names {latest or 'nothing'}, as after a push"
            " that was stopped; the next push or rollback mends it",
            style="yellow",
        )
    return {
        "directory": store.address,
        "served": served.number,
        "latest": latest,
        "versions": [_as_dict(version) for version in versions],
    }


def roll_back_version(
    terminal: Terminal, directory: str, *, to: int | None, user: str
) -> dict[str, Any]:
    """Serves an earlier model again; see `management.roll_back`.

    Raises:
        InputError: There is nothing to go back to.
    """
    made = roll_back(open_store(directory), to=to, user=user)
    record = made.record
    terminal.say(
        f"version {made.number} is served now: the model of {record.copy_of}, in place of"
        f" {record.rolled_back_from}"
    )
    return _as_dict(made)


def prune_versions(
    terminal: Terminal, directory: str, *, keep: int, remove: bool
) -> dict[str, Any]:
    """Removes old versions, or says which would go.

    Args:
        terminal: Where it is shown.
        directory: The folder or `gs://` prefix.
        keep: How many of the newest stay.
        remove: Do it; without it nothing changes.

    Returns:
        Numbers and bytes, in a form for JSON.

    Raises:
        InputError: There is no model, or none would stay.
    """
    store: VersionStore = open_store(directory)
    served = served_version(store)
    doomed = prunable(store, keep=keep)
    size = sum(version.size for version in doomed)
    numbers = [version.number for version in doomed]
    if remove:
        store.remove(numbers)
    named = ", ".join(map(str, numbers)) or "nothing"
    verb = "removed" if remove else "would remove"
    hint = "" if remove or not doomed else "; do it with --yes"
    terminal.say(f"{verb} {named} ({_size(size)}); {served.number} is served{hint}")
    return {
        "directory": store.address,
        "served": served.number,
        "removed" if remove else "would_remove": numbers,
        "bytes": size,
    }


def _row(version: Version, served: int, taken_back: set[int | None]) -> tuple[str, ...]:
    record = version.record
    states = []
    if version.number == served:
        states.append("served")
    if not version.complete:
        states.append("INCOMPLETE")
    if record.copy_of is not None:
        states.append(f"model of {record.copy_of}")
    if version.number in taken_back:
        states.append("rolled back")
    by = f"{record.user}@{record.host}" if record.user else "unknown"
    source = ", ".join(record.sources)
    images = record.images.get("train")
    if images:
        source += f" ({images:,} train)"
    metrics = [
        f"{title} {record.metrics[name]:.4f}"
        for title, aliases in _SHOWN_METRICS.items()
        for name in aliases
        if name in record.metrics
    ]
    return (
        str(version.number),
        ", ".join(states),
        record.pushed_at or "unknown",
        by,
        source or "unknown",
        ", ".join(metrics) or "unknown",
        _size(version.size),
    )


def _as_dict(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "path": version.path,
        "complete": version.complete,
        "bytes": version.size,
        **{key: value for key, value in asdict(version.record).items() if key != "version"},
    }


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
