"""Records the origin of a pushed version: user, time, data and metrics.

A push writes it to `assets.extra/push.json` next to the model; `vaeline models` reads it.
"""

import getpass
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from serving import names
from trainer.errors import InputError
from trainer.json_text import json_text
from trainer.model_card import EXPORTED_CARD, CardError, ModelCard, parse_card

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushRecord:
    """Describes one push.

    Attributes:
        version: Number of the version; 0 until the store assigns one.
        pushed_at: Time of the push, UTC, as `2026-11-22T19:08:35Z`.
        user: The configured name, or that of the operating system's account.
        host: The machine that pushed.
        name: The pipeline's name.
        sources: The paths of the images.
        fingerprint: Fingerprint of the content of these sources.
        images: Number of images by split.
        digests: Digests of model, transform, calibration, code and configuration.
        metrics: Metrics on the test split, by TFMA's names.
        replaced: The version that was served until this push.
        copy_of: After a rollback, the version whose files were copied.
        rolled_back_from: After a rollback, the version that was replaced.
    """

    version: int = 0
    pushed_at: str = ""
    user: str = ""
    host: str = ""
    name: str = ""
    sources: tuple[str, ...] = ()
    fingerprint: str = ""
    images: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    replaced: int | None = None
    copy_of: int | None = None
    rolled_back_from: int | None = None

    def is_same_push(self, other: "PushRecord") -> bool:
        """Tells whether both record one model, judged on one set of test images.

        They do if a step published, was killed before it could say so, and was started again.
        """

        def content(record: PushRecord) -> PushRecord:
            return replace(record, version=0, pushed_at="", host="", replaced=None)

        return any(self.digests.values()) and content(self) == content(other)

    def to_json(self) -> bytes:
        """Returns the content of `push.json`."""
        return (json_text(asdict(self), indent=2, sort_keys=True) + "\n").encode()


def sign_record(record: PushRecord, user: str = "") -> PushRecord:
    """Returns the record with user, host and time filled in.

    Args:
        record: The record to complete.
        user: The user name to record; if empty, that of the operating system's account.
    """
    pushed_at, signer, host = sign(user)
    return replace(record, pushed_at=pushed_at, user=signer, host=host)


def sign(user: str = "") -> tuple[str, str, str]:
    """Returns the time in UTC, the user and the machine, for a record.

    Args:
        user: The user name; if empty, that of the operating system's account.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return now, user or account(), socket.gethostname()


def create_record(
    model: Path,
    *,
    user: str = "",
    fingerprint: str = "",
    metrics: Mapping[str, float] | None = None,
) -> PushRecord:
    """Creates the record of a model that is about to be pushed.

    Args:
        model: Folder of the SavedModel; its card and configuration are read if they exist.
        user: As for `sign_record`.
        fingerprint: Fingerprint of the data.
        metrics: Metrics on the test split.

    Returns:
        The record, without a version.
    """
    card = _card(model / EXPORTED_CARD)
    config = _mapping(model / names.EXTRA_ASSETS / names.CONFIG)
    paths = (config.get("input") or {}).get("paths") or ()
    record = PushRecord(
        name=card.name,
        sources=(paths,) if isinstance(paths, str) else tuple(str(path) for path in paths),
        fingerprint=fingerprint,
        images=card.images,
        digests=card.digests.as_dict(),
        metrics=dict(metrics or {}),
    )
    return sign_record(record, user)


def parse_record(content: bytes, place: str) -> PushRecord:
    """Parses a record and ignores keys of later releases.

    Args:
        content: The content of the file.
        place: The location of the file, for the log.

    Returns:
        The record; an empty one if the file is damaged, because a servable version without its
        history must not block a push or a rollback.
    """
    try:
        values: dict[str, Any] = json.loads(content)
        known = {entry.name for entry in fields(PushRecord)}
        kept = {key: value for key, value in values.items() if key in known}
        return PushRecord(**{**kept, "sources": tuple(values.get("sources", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        _LOG.warning("%s: not the record of a push: %s", place, error)
        return PushRecord()


def _card(path: Path) -> ModelCard:
    try:
        return parse_card(path.read_bytes())
    except FileNotFoundError:
        return ModelCard()
    except CardError as error:
        raise InputError(f"{path}: can't be read, so the model is not pushed: {error}") from error


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read, so the model is not pushed: {error}") from error
    return found if isinstance(found, dict) else {}


def account() -> str:
    """Returns the name of the operating system's account, or its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # Containers often run under a user id that has no account.
        return f"uid {os.getuid()}"
