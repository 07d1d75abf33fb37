"""Records which job an output belongs to, and decides what to do if that job has changed.

`job.py` calls it before it plans anything.
"""

import hashlib
import json
import posixpath
from typing import Any, Final

from components.bulk_inference.config import BulkJob
from components.bulk_inference.output import ledger
from trainer.errors import InputError
from trainer.model_card import ModelCard
from trainer.storage import files

_VERSION: Final = 1
"""Version of the layout and of the numerical results; an output of another version is replaced."""


def job_identity(config: BulkJob, card: ModelCard) -> dict[str, Any]:
    """Returns everything that determines the rows; jobs of equal identity share a table."""
    return {
        "layout": _VERSION,
        "digests": card.answer_digests,
        "classes": hashlib.sha256("\0".join(card.classes).encode()).hexdigest()[:16],
        "format": config.format,
        "columns": list(config.columns),
        "partition_by": config.partition_by,
        "duplicates": config.duplicates,
        "limits": config.input.limits.model_dump(mode="json"),
        "labels": config.input.labels.model_dump(mode="json"),
    }


def read_identity(output: str) -> dict[str, Any] | None:
    """Reads the identity of the job that wrote an output; None if no job did."""
    try:
        content = files.read_bytes(posixpath.join(output, ledger.IDENTITY))
    except FileNotFoundError:
        return None
    # A store that does not answer is a ValueError as well, and no foreign output.
    try:
        identity: dict[str, Any] = json.loads(content)
    except ValueError:
        return None
    return identity


def write_identity(output: str, identity: dict[str, Any]) -> None:
    """Marks an output as belonging to this job."""
    content = json.dumps(identity, indent=2, sort_keys=True).encode()
    files.write_bytes(posixpath.join(output, ledger.IDENTITY), content)


def settle(config: BulkJob, card: ModelCard) -> list[str]:
    """Clears an output that belongs to another job, and returns notes with the reason."""
    output = config.output
    wanted = job_identity(config, card)
    found = read_identity(output)
    notes = []
    if found is None:
        others = [name for name in files.list_names(output) if name[:1] not in "._"]
        if others and not config.overwrite:
            raise InputError(
                f"{output}: holds {others[0]!r}, which no bulk job wrote; name another"
                " folder, or pass --overwrite to write beside it"
            )
        ledger.clear(output)
    elif config.overwrite:
        notes.append("started afresh: --overwrite")
        ledger.clear(output)
    elif found != wanted:
        changed = ", ".join(_differences(found, wanted))
        if config.on_change == "refuse":
            raise InputError(
                f"{output}: its table was made with another {changed}; name another folder, or"
                " pass --overwrite"
            )
        notes.append(f"started afresh: {changed} changed since the table was made")
        ledger.clear(output)
    else:
        ledger.remove_unfinished(output)
        return notes
    write_identity(output, wanted)
    return notes


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for name in sorted(found.keys() | wanted.keys()):
        old, new = found.get(name), wanted.get(name)
        if old == new:
            continue
        if name == "digests" and isinstance(old, dict) and isinstance(new, dict):
            names.extend(part for part in sorted(new) if old.get(part) != new.get(part))
        else:
            names.append(name)
    return names
