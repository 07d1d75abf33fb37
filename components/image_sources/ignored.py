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
        "recycled",
        "@sharebin",  # QNAP
        "_gsdata_",  # GoodSync
        "_vti_cnf",  # FrontPage and SharePoint
    )
)
_SYSTEM_FILES: Final = frozenset(
    (
        "thumbs.db",
        "thumbs.db:encryptable",
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


_SIDE_SUFFIXES: Final = frozenset(
    (
        *("cls", "txt", "json", "text", "caption", "transcript", "csv", "tsv", "jsonl", "yaml"),
        *("yml", "xml", "html", "md", "rst", "cls2", "id", "index", "inx", "bbox", "npy", "npz"),
        *("pt", "pth", "pyd", "pkl", "pickle", "mat", "ten", "tb", "mp", "msg", "cbor"),
        *("safetensors", "parquet", "log", "md5", "sha256", "mp3", "wav", "flac", "ogg", "m4a"),
        # Labels of other tools, and the edits that cameras and photo programs keep beside a photo.
        *("class", "label", "labels", "lbl", "aae", "xmp", "pp3"),
        *("mp4", "avi", "mkv", "mov", "webm", "vtt", "srt", "lock"),
    )
)
_SIDE_FILES: Final = frozenset(("readme", "license", "licence", "copying", "notice"))


def ignored_reason(name: str) -> str | None:
    """Returns why an entry is ignored, judging by its path below the root; None if it is not.

    Args:
        name: The path inside the source, `/`-separated; a folder's ends in `/`.
    """
    folder, _, base = name.rpartition("/")
    return _reason_of_folder(folder) or (_reason_of_file(base) if base else "folder")


def is_side_file(name: str) -> bool:
    """Returns whether a file holds a label, a caption or a document, judging by its name.

    Args:
        name: The file's name, or its suffix without the dot.
    """
    base = name.rpartition("/")[2].lower()
    return base.rpartition(".")[2] in _SIDE_SUFFIXES or base in _SIDE_FILES


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
