"""Defines how object stores are reached; `input.storage` of the configuration is one of these."""

from typing import Final

from pydantic import Field

from trainer.options import Section


class StorageConfig(Section):
    """How `gs://` and `s3://` are reached."""

    anonymous: bool = Field(default=False, description="Without credentials: public buckets.")
    attempts: int = Field(default=5, ge=1, description="Tries per request before the run fails.")
    timeout_secs: float = Field(default=60.0, gt=0, description="Limit on one request.")


DEFAULT: Final = StorageConfig()
"""Reaches the files of the pipeline itself, for which nothing is configured."""
