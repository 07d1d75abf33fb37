"""Makes TFX's cache independent of the location of the root folder.

TFX's key of a cached execution contains the paths of its input artifacts, and every path in its
settings. After a root was moved, no step would be found in the cache.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tfx.orchestration.portable import cache_utils

from pipeline.runs.location import replace_root

_ROOT: Final = "{root}"
# TFX reads the file that this parameter names.
_MODULE_FILE: Final = "module_file"


@contextlib.contextmanager
def location_independent_cache(root: Path) -> Iterator[None]:
    """Lets TFX's local runner compute cache keys with paths relative to the root.

    TFX has no setting for this, so the function that computes the key is replaced in the block.

    Args:
        root: Absolute path of the root.
    """
    original = cache_utils.get_cache_context

    def get_cache_context(
        *,
        input_artifacts: Mapping[str, Sequence[Any]] | None = None,
        parameters: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Any:
        return original(
            input_artifacts={
                key: [_without_root(artifact, str(root)) for artifact in artifacts]
                for key, artifacts in (input_artifacts or {}).items()
            },
            parameters={
                name: value if name == _MODULE_FILE else replace_root(str(value), str(root), _ROOT)
                for name, value in (parameters or {}).items()
            },
            **others,
        )

    cache_utils.get_cache_context = get_cache_context
    try:
        yield
    finally:
        cache_utils.get_cache_context = original


def _without_root(artifact: Any, root: str) -> Any:
    """Returns a copy of a TFX artifact for the key."""
    found = copy.deepcopy(artifact)
    record = found.mlmd_artifact
    record.uri = replace_root(record.uri, root, _ROOT)
    # A change of its state, such as that of files that were restored, is no change of its content.
    record.ClearField("last_update_time_since_epoch")
    for value in [*record.properties.values(), *record.custom_properties.values()]:
        if value.string_value:
            value.string_value = replace_root(value.string_value, root, _ROOT)
    return found
