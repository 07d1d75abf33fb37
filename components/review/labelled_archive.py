"""Opens the finished table of a bulk job, with the model that made it, for a review."""

import json
import posixpath
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from components.bulk_inference.model_card import read_card
from components.bulk_inference.output.ledger import MANIFEST, TABLE, Ledger
from components.bulk_inference.output.table_rows import SHARD_SUFFIXES, shard_rows
from components.image_sources.config import InputConfig
from components.image_sources.pick import Found, pick_members
from trainer.errors import InputError
from trainer.model_card import ModelCard
from trainer.quality.held_out import HELD_OUT_FILE, HeldOutAnswers, read_held_out

_NEEDED: Final = ("key", "label", "probability")


class LabelledArchive:
    """Gives the finished table of a bulk job, with the model that made it.

    Args:
        output: The job's folder.

    Raises:
        InputError: The folder has no finished table that can be reviewed; the message tells why.
    """

    def __init__(self, output: str) -> None:
        self.ledger = Ledger(output)
        try:
            self.manifest: dict[str, Any] = json.loads(self.ledger.read(MANIFEST))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{output}: no {MANIFEST} of a finished job; run `vaeline classify` to its end"
            ) from error
        self.format: str = self.manifest["config"]["format"]
        if self.format not in SHARD_SUFFIXES:
            raise InputError(
                f"{output}: the table is {self.format}; a review needs one of"
                f" {', '.join(SHARD_SUFFIXES)}"
            )
        self.require(*_NEEDED)

    @property
    def columns(self) -> set[str]:
        """Returns the names of the table's columns."""
        return {column["name"] for column in self.manifest["schema"]}

    def require(self, *columns: str) -> None:
        """Checks that the table has columns; raises InputError, which names a missing one."""
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise InputError(
                f"{self.ledger.output}: the table has no column {missing[0]}; classify with it"
                " (bulk.columns)"
            )

    def require_vectors(self, *columns: str) -> None:
        """Checks that the table has columns of vectors; raises InputError if not."""
        if self.format != "parquet":
            raise InputError(
                f"{self.ledger.output}: the table is {self.format}; classify with bulk.format"
                " parquet, which holds vectors"
            )
        self.require(*columns)

    @cached_property
    def input(self) -> InputConfig:
        """How the job read its archives."""
        return InputConfig.model_validate(self.manifest["config"]["input"])

    def images(self, rows: Iterable[tuple[str, str]], *, seconds: float) -> Found:
        """Fetches the images of rows, given by source and member, as far as they are found."""
        wanted: dict[str, set[str]] = {}
        for source, member in rows:
            wanted.setdefault(source, set()).add(member)
        return pick_members(self.input, wanted, seconds=seconds)

    @cached_property
    def shards(self) -> list[str]:
        """The files of the table in order, relative to the output."""
        found, suffix = self.ledger.unit_files(), SHARD_SUFFIXES[self.format]
        return [name for name in found if name.startswith(f"{TABLE}/") and name.endswith(suffix)]

    def rows(self, shard: str, *columns: str) -> Iterator[pa.RecordBatch]:
        """Yields the rows of one file; columns that the table lacks are omitted."""
        yield from shard_rows(self.ledger.path(shard), self.format, columns)

    @cached_property
    def card(self) -> ModelCard:
        """The card of the model that made the table.

        Raises:
            InputError: It is gone, or another one took its place.
        """
        card = read_card(self.manifest["model"]["path"])
        if card.answer_digests != self.manifest["model"]["digests"]:
            raise InputError(
                f"{card.path}: not the model that made {self.ledger.output}; classify again"
            )
        return card

    def held_out(self) -> HeldOutAnswers:
        """Returns the model's answers on its calibration split; raises InputError without them."""
        return read_held_out(posixpath.join(self.card.path, HELD_OUT_FILE))
