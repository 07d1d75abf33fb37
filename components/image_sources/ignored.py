"""Tells by its name which entry of a source is no image.

Every reader uses it; ingest's account and the manifest of a bulk job carry the counts.
"""

from functools import lru_cache
from typing import Final

REASONS: Final = {
    "folder": "entries of archives that are folders",
    "hidden": "names with a part that starts with a dot",
    "system": "what operating systems, network drives and editors leave behind",
    "marker": "markers of Hadoop and Spark jobs",
    "side_file": "labels, captions and other files beside images",
}
"""Reasons to ignore an entry, with their meanings."""

_SYSTEM_FOLDERS: Final = frozenset(
    (
        "__macosx",
        "__pycache__",
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "@__thumb",
        "~snapshot",  # NetApp
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "network trash folder",
        "temporary items",
    )
)
_SYSTEM_FILES: Final = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "icon\r",
        "picasa.ini",
        "zbthumbnail.info",
    )
)
_SYSTEM_ENDS: Final = (
    ":zone.identifier",
    "\uf03azone.identifier",
    "@synoeastream",
    "@synoresource",
)
_MARKER_FOLDERS: Final = frozenset(("_temporary", "_delta_log", "_spark_metadata"))
_MARKER_FILES: Final = frozenset(("_success", "_metadata", "_common_metadata"))
_MARKER_STARTS: Final = ("_committed_", "_started_")
_MARKER_END: Final = "_$folder$"


def ignored_reason(name: str) -> str | None:
    """Returns why an entry is ignored, judging by its path below the root; None if it is not.

    Args:
        name: The path inside the source, `/`-separated; a folder's ends in `/`.
    """
    folder, _, base = name.rpartition("/")
    return _reason_of_folder(folder) or (_reason_of_file(base) if base else "folder")


@lru_cache(maxsize=65536)
def _reason_of_folder(folder: str) -> str | None:
    for part in folder.split("/"):
        if part in ("", ".", ".."):
            continue
        if part.lower() in _SYSTEM_FOLDERS:
            return "system"
        if part.startswith("."):
            return "hidden"
        if part.lower() in _MARKER_FOLDERS:
            return "marker"
    return None


def _reason_of_file(base: str) -> str | None:
    name = base.lower()
    if name in _SYSTEM_FILES or name.startswith("~$") or name.endswith(_SYSTEM_ENDS):
        return "system"
    if name.startswith("."):
        return "hidden"
    if name in _MARKER_FILES or name.endswith(_MARKER_END) or name.startswith(_MARKER_STARTS):
        return "marker"
    return None
