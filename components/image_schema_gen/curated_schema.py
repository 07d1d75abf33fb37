"""Reads the schema that `schema.path` names, before a run begins and in the step that takes it."""

import hashlib
import posixpath
from typing import Final

from trainer.errors import InputError
from trainer.storage import files

SCHEMA_FILE: Final = "schema.pbtxt"


def read_schema(path: str) -> bytes:
    """Reads a curated schema.

    Args:
        path: A file, or a folder with `schema.pbtxt`.

    Returns:
        The text of the schema.

    Raises:
        InputError: There is no such file, or it is no schema.
    """
    # Most runs infer their schema.
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    if files.is_folder(path):
        path = posixpath.join(path, SCHEMA_FILE)
    content = files.read_bytes(path)
    try:
        text_format.Parse(content.decode(), schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        fault = str(error).rstrip(".")
        raise InputError(
            f"{path}: no schema of TFMD: {fault}; give a schema.pbtxt as TFDV writes it"
        ) from error
    return content


def schema_digest(path: str | None) -> str:
    """Returns a digest of a curated schema, by which the cache notices an edit; empty without one.

    Raises:
        InputError: as for `read_schema`.
    """
    return hashlib.sha256(read_schema(path)).hexdigest()[:16] if path else ""
