"""Implements BulkInference's driver, which inspects the archives before TFX looks up its cache.

A path stays the same when the archive behind it changes, so the archive's fingerprint becomes part
of the execution's properties. Kubeflow does not support such a driver; there the job finds the
images itself, and a changed archive needs another span or `cache: false`.
"""

from collections.abc import Mapping
from typing import Any

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.executor import BULK_CONFIG, INPUT_FINGERPRINT
from components.image_example_gen.driver import InputDriver
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import resolve


class Driver(InputDriver):
    """Resolves spans and computes the fingerprint of the configured archives, if any."""

    def look(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fingerprint unless it is given; see the base class."""
        config = BulkConfig.model_validate_json(given[BULK_CONFIG])
        if config.input is None:
            return {}
        found = resolve(config.input).config
        changed = config.model_copy(update={"input": found})
        return {
            BULK_CONFIG: changed.model_dump_json(exclude_unset=True),
            INPUT_FINGERPRINT: given.get(INPUT_FINGERPRINT) or fingerprint(found),
        }
