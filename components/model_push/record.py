"""What is known about a pushed version: who, when, from which data, how good.

Written at push time to `assets.extra/push.json` beside the model; `vaeline models` reads it.
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

from components.image_sources.errors import InputError
from serving import names
from trainer.model_card import EXPORTED_CARD, CardError, ModelCard, parse_card

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushRecord:
    """One push.

    Attributes:
        version: Number of the version; 0 until the store has given one.
        pushed_at: Time of the push, UTC, as `2026-11-22T19:08:35Z`.
        user: Who pushed: the configured name, or that of the operating system's account.
        host: Where from.
        name: The pipeline's name.
        sources: The paths that the images came from.
        fingerprint: Of the content of these sources.
        images: Images by split.
        digests: Of model, transform, calibration, code and configuration.
        metrics: Of the test split, by TFMA's names.
        replaced: The version that was served until then.
        copy_of: After a rollback: the version whose files these are.
        rolled_back_from: After a rollback: the version that was taken out of service.
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

    def to_json(self) -> bytes:
        """Returns the file's content."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()


def sign_record(record: PushRecord, user: str = "") -> PushRecord:
    """Fills in who does this, where and when.

    Args:
        record: To fill in.
        user: Name to record; empty: that of the operating system's account.
    """
    return replace(
        record,
        pushed_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        user=user or _account(),
        host=socket.gethostname(),
    )


def create_record(
    model: Path,
    *,
    user: str = "",
    fingerprint: str = "",
    metrics: Mapping[str, float] | None = None,
) -> PushRecord:
    """Makes the record of a model that is about to be pushed.

    Args:
        model: Folder of the SavedModel; its card and configuration are read where they are there.
        user: As for `signed`.
        fingerprint: Of the data.
        metrics: Of the test split.

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
    """Reads a record; keys of later releases are passed over.

    Args:
        content: Of the file.
        place: Where it was found, for the log.

    Returns:
        The record; a bare one where the file is damaged, because a version that can be served
        must not stand in the way of a push or a rollback for want of its history.
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


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # Containers often run under a number that no account has.
        return f"uid {os.getuid()}"
