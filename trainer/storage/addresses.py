"""Validates addresses in object stores, for the configuration: nothing is sent there."""

import re
from typing import Final

SCHEMES: Final = ("gs://", "s3://", "minio://")
"""What addresses in object stores begin with."""

# Letters, digits, `-`, `_` and `.`: https://cloud.google.com/storage/docs/buckets#naming.
_ADDRESS: Final = re.compile(rf"(?:{'|'.join(SCHEMES)})[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?(?:/.*)?")


def names_bucket(address: str) -> bool:
    """Returns whether a text is an address in a store, with a possible name of a bucket."""
    return bool(_ADDRESS.fullmatch(address))
