"""Looks at an input without writing anything, from a sample or in full, for `vaeline inspect`.

It reads, checks and counts as an ingest does, in this process and without Beam.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from components.image_example_gen.account import Account, name_of
from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.inspection import Inspected, inspect
from components.image_example_gen.splits import final_split
from components.image_sources.base import WorkUnit
from components.image_sources.config import DuplicatesConfig, FindingsConfig, InputConfig
from components.image_sources.sources import ImageSource
from trainer.errors import InputError
from trainer.storage import files

SAMPLE_SECS: Final = 10.0
"""Time for the reading of a sample."""
_UNITS: Final = 50
"""Number of work units, spread over the input, that share the time of a sample."""
_ENTRY_BYTES: Final = 768
"""Bytes of an entry of a tar besides its image: a header, and half a block to fill the last one."""
RECORD_BYTES: Final = 300
"""Bytes of a record besides its image: names, digest, sizes, framing."""


@dataclass(frozen=True)
class InputSurvey:
    """Holds what was found, and what it means for the whole input.

    Attributes:
        account: Counts of what was read; copies are not looked for.
        is_complete: Whether everything was read.
        members: Expected number of entries of the whole input.
        seconds: Time to read and check the sample on one core.
    """

    account: Account
    is_complete: bool
    members: int
    seconds: float

    @property
    def scale(self) -> float:
        """Returns by how much the whole input is larger than the sample."""
        return self.members / max(self.account.images_in + self.account.ignored.total(), 1)

    @property
    def examples_bytes(self) -> int:
        """Returns the expected size of the Examples artifact in bytes."""
        records = self.account.bytes + RECORD_BYTES * self.account.examples.total()
        return round(records * self.scale)


def survey(
    config: InputConfig,
    *,
    full: bool = False,
    seconds: float = SAMPLE_SECS,
    now: Callable[[], float] = time.perf_counter,
) -> InputSurvey:
    """Reads an input, or a sample of work units that are spread over it.

    Args:
        config: The input section, with spans resolved.
        full: Whether to read everything.
        seconds: Time after which the reading of a sample stops.
        now: Clock in seconds; injectable for tests.

    Raises:
        InputError: if the input cannot be read, or there is nothing in it.
    """
    account = Account()
    counts: Counter[tuple[int, str | None]] = Counter()
    source = ImageSource(config)
    units = list(source.units())
    account.empty = source.empty
    chosen = units if full else units[:: -(-len(units) // _UNITS)]
    begin = now()
    members_read = 0
    members_expected = 0.0
    is_complete = full or len(chosen) == len(units)
    for place, unit in enumerate(chosen, 1):
        until = None if full else begin + seconds * place / len(chosen)
        read, whole = _read_unit(unit, config, account, counts, until, now)
        members_read += read
        image_bytes = account.bytes / max(counts.total(), 1)
        members_expected += _expected(unit, read, whole, image_bytes, config)
        is_complete = is_complete and whole
    account.seconds = max(now() - begin, 1e-9)
    named = set(account.named_splits)
    for (slot, label), number in counts.items():
        account.examples[name_of(final_split(slot, named), label)] += number
    if is_complete:
        members = members_read
    elif all(unit.members >= 0 for unit in units):
        members = sum(unit.members for unit in units)
    else:
        members = round(members_expected * len(units) / len(chosen))
    return InputSurvey(account, is_complete, members, account.seconds)


def _read_unit(
    unit: WorkUnit,
    config: InputConfig,
    account: Account,
    counts: Counter[tuple[int, str | None]],
    until: float | None,
    now: Callable[[], float],
) -> tuple[int, bool]:
    """Adds a unit's images to the account; returns the entries read and whether these were all."""
    read = 0
    # Near-duplicates and findings, like copies, are not looked for in a sample.
    left_out = {"duplicates": DuplicatesConfig(), "findings": FindingsConfig(enabled=False)}
    job = IngestJob(config.model_copy(update=left_out))
    batches: Iterator[Inspected] = (inspect(batch, job) for batch in ImageSource(config).read(unit))
    for images in batches:
        account.add(images)
        counts.update(zip(images.slots.tolist(), images.labels, strict=True))
        read += len(images.data) + len(images.rejects) + images.ignored.total()
        if until is not None and now() >= until:
            # A unit that ends here exactly costs one look at what follows.
            return read, not list(islice(batches, 1))
    return read, True


def _expected(
    unit: WorkUnit, read: int, whole: bool, image_bytes: float, config: InputConfig
) -> float:
    """Returns the expected number of entries of a unit, of which the first were read."""
    if whole or unit.members >= 0:
        return read if whole else unit.members
    size = 0
    with suppress(InputError):
        size = files.stat(unit.source, config.storage).size
    # Images are compressed already, so that a packed stream is about as large as they are.
    return max(read, size / (image_bytes + _ENTRY_BYTES))
