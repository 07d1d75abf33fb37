"""Notices folders of masks beside folders of the images that they belong to, by equal file names.

`origins.py` adds the counts to every batch; `components/image_example_gen/layout_hints.py` judges
their sums.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import lru_cache
from heapq import nsmallest
from typing import Final, NamedTuple

from components.image_sources.named_counts import EXAMPLES, NamedCounts
from components.image_sources.naming import CONTAINERS

MASKS_IN: Final = "masks in "
"""Prefix of the kinds that count files by the folder whose name stands for masks; the examples are
the first of all files, by their names below it."""
IMAGES_IN: Final = "images in "
"""The same for folders whose name stands for images of any class."""

_MASK_WORDS: Final = frozenset(
    ("mask", "masks", "trimap", "trimaps", "segmentation", "segmentations", "groundtruth")
)
_MASK_NAMES: Final = frozenset(
    (
        *("label", "labels", "annotation", "annotations", "ann", "anns", "gt", "gts"),
        *("seg", "segs", "segmentationclass", "segmentationobject", "ground_truth"),
        *("matte", "mattes"),
    )
)
"""Names that mean masks only if they stand alone."""
_IMAGE_WORDS: Final = CONTAINERS | {"rgb", "input", "inputs", "original", "originals"}
_WORD_BREAK: Final = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
_STEM_END: Final = re.compile(
    r"[\W_]+(?:mask|trimap|segmentation|seg|label|gt|groundtruth|image|img)s?$", re.IGNORECASE
)
"""What names of one pair differ by, as in `7_mask.png` and `7.jpg`."""


class _Holder(NamedTuple):
    """Names the part of a path that stands for masks or images, and what follows it."""

    kind: str
    rest: str


def count_paired(found: NamedCounts, folders: Collection[str], names: Sequence[str]) -> None:
    """Counts the files of a batch by the folder of masks or images that they lie in.

    Args:
        found: Receives the counts.
        folders: The folders of the names.
        names: Paths in the source.
    """
    if not any(map(_holder, folders)):
        return
    stems: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, _, base = name.rpartition("/")
        if holder := _holder(folder):
            stem = base.rpartition(".")[0]
            # Most names are numbers, which have no such end.
            if not stem[-1:].isdigit():
                stem = _STEM_END.sub("", stem)
            stems[holder.kind].append(holder.rest + stem)
    for kind, held in stems.items():
        # The lowest names of all batches are kept, so that equal ones show equal folders.
        lowest = nsmallest(EXAMPLES, set(held))
        found.add(kind, lowest[0], len(held))
        for stem in lowest[1:]:
            found.add(kind, stem, 0)


@lru_cache(maxsize=65536)
def _holder(folder: str) -> _Holder | None:
    """Returns the last part of a folder's path that stands for masks or images, if any does."""
    parts = folder.split("/")
    for at in range(len(parts) - 1, -1, -1):
        part = parts[at]
        words = set(_WORD_BREAK.sub(" ", part).lower().split())
        rest = "".join(f"{name}/" for name in parts[at + 1 :])
        if part.lower() in _MASK_NAMES or words & _MASK_WORDS:
            return _Holder(MASKS_IN + part, rest)
        if words & _IMAGE_WORDS:
            return _Holder(IMAGES_IN + part, rest)
    return None
