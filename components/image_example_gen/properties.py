"""Names of ImageExampleGen's execution properties; component, driver and executor share them."""

from typing import Final

INPUT_CONFIG: Final = "input_config"
"""JSON of the input section; the driver replaces its spans by the paths they stand for."""
THREADS: Final = "threads"
PROCESSES: Final = "processes"
CODE_DIGEST: Final = "code_digest"

# TFX's own names, which its span resolvers read from the artifact.
FINGERPRINT: Final = "input_fingerprint"
SPAN: Final = "span"
VERSION: Final = "version"
