"""Names of BulkInference's execution properties; component, driver and executor share them."""

from typing import Final

BULK_CONFIG: Final = "bulk_config"
"""JSON of the `bulk:` section; the driver replaces its spans by the paths they stand for."""
SPLIT: Final = "split"
CODE_DIGEST: Final = "code_digest"
INPUT_FINGERPRINT: Final = "input_fingerprint"
"""Of the archives' content; the driver's, unless whoever makes the component gives one."""
