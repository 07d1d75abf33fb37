"""Maps recorded paths to where a root folder is now.

ML Metadata stores the full path of every artifact. A root that was moved, copied, mounted elsewhere
or first named by a relative path would otherwise be read at its former location.
"""

import json
import re
from pathlib import Path
from typing import Final

from pipeline.runs.run import ARTIFACTS

# An artifact is at `<root>/artifacts/<step>/<output>/<number of the execution>`; a value of a step
# is a file in that folder.
_ARTIFACT: Final = re.compile(
    rf"(?:(?P<root>.*)/)?{ARTIFACTS}/(?P<tail>(?:[^/]+/){{1,2}}\d+(?:/value)?)"
)
# Settings of steps contain JSON within JSON, in which characters outside ASCII are escaped again.
_MOST_ESCAPES: Final = 2


def recorded_root(uri: str) -> str | None:
    """Returns the root that an artifact's path names; None if it is not below a root.

    The root is empty if the path is relative to it.
    """
    found = _ARTIFACT.fullmatch(uri)
    return None if found is None or "://" in uri else found["root"] or ""


def present_uri(uri: str, root: Path) -> str:
    """Returns the path of an artifact in the root as it is now; other paths are unchanged."""
    found = _ARTIFACT.fullmatch(uri)
    if found is None or "://" in uri:
        return uri
    return str(root / ARTIFACTS / found["tail"])


def replace_root(text: str, former: str, present: str) -> str:
    """Replaces a root's path in a recorded value.

    Args:
        text: A path, or JSON with paths, possibly JSON within JSON.
        former: The path to replace, where it is a whole path or the beginning of one.
        present: Its replacement.
    """
    if not former:
        return text
    for _ in range(1 + _MOST_ESCAPES):
        if former in text:
            pattern = rf"""(?:^|(?<=["'=])){re.escape(former)}(?=[/"'\\]|$)"""
            text = re.sub(pattern, lambda _, new=present: new, text)  # type: ignore[misc]
        escaped = json.dumps(former)[1:-1]
        if escaped == former:
            break
        former, present = escaped, json.dumps(present)[1:-1]
    return text
