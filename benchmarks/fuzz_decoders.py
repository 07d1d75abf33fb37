"""Damaged files: ingest accepts only what the served graph decodes, and to equal pixels.

`python -m benchmarks.fuzz_decoders [--seconds 600] [--seed 1] [--data DIR] [--save FOLDER]` damages
small files for as long as it is told, and compares three readers of each: the ingest's checks, the
bulk job's decoder and the served graph. `--save` keeps the files on which they disagree.
"""

import argparse
import hashlib
import random
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks.image_files import FORMATS, valid_files
from benchmarks.image_mutations import Mutant, mutate
from benchmarks.record import print_record
from components.image_checks import ImageFaultError, ImageHeader, check, decode
from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.inspection import inspect
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from serving.input_validation import validate_files
from trainer.config import ImageConfig
from trainer.data.pixels import decode_file

_BATCH = 64
_FORMATS_OF = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_FROM_EACH = 10
"""Images of each zip in `--data`."""
_LARGEST = 64 * 1024
# So large that files are decoded at their own size.
_IMAGE = ImageConfig(height=1024, width=1024, channels=3)


class Disagreement(NamedTuple):
    """A file that the readers do not treat alike.

    Attributes:
        mutant: The file.
        kind: `ingest`, `bulk`, `served`, `pixels`, `header` or `signature`, see `Comparison`.
        detail: What they said.
    """

    mutant: Mutant
    kind: str
    detail: str


@dataclass
class Comparison:
    """Compares the readers, file by file, and counts.

    The kinds of disagreement are: `ingest` stops with something else than a reject; `bulk`, the
    bulk job's decoder accepts what ingest rejects, or the reverse; `served`, the served graph does
    not decode what ingest stored; `pixels`, it decodes other pixels; `header`, the stored header
    states another size; `signature`, the signature for files accepts the original file, but
    with other pixels, or rejects the stored one.

    Attributes:
        tried: Number of files, by format.
        accepted: Number of files that ingest accepted, by format.
        disagreements: What was found.
    """

    tried: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = tf.TensorSpec([], tf.string)
        self._config = InputConfig(paths=("unused",))
        self._decode = tf.function(
            lambda content: decode_file(content, _IMAGE), input_signature=[text], autograph=False
        )
        self._validate = tf.function(
            lambda content: validate_files(content[tf.newaxis], _IMAGE)[0],
            input_signature=[text],
            autograph=False,
        )

    def compare(self, mutants: list[Mutant]) -> None:
        """Compares the readers on one batch of files."""
        batch = MemberBatch("fuzz")
        for place, mutant in enumerate(mutants):
            batch.add(str(place), mutant.data, None, None)
        try:
            found = inspect(batch, IngestJob(self._config))
        except Exception as error:
            if len(mutants) > 1:
                for mutant in mutants:
                    self.compare([mutant])
            else:
                self.tried[mutants[0].format] += 1
                self._disagree(mutants[0], "ingest", repr(error))
            return
        self.tried.update(mutant.format for mutant in mutants)
        stored = {
            int(key.rpartition("/")[2]): (data, header)
            for key, data, header in zip(found.keys, found.data, found.headers, strict=True)
        }
        for place, mutant in enumerate(mutants):
            expected = self._in_bulk(mutant)
            if (place in stored) != (expected is not None):
                verdict = "accepts" if place in stored else "rejects"
                self._disagree(mutant, "bulk", f"ingest {verdict}, the bulk job does not")
            elif expected is not None:
                self.accepted[mutant.format] += 1
                self._compare_served(mutant, *stored[place], expected)

    def _in_bulk(self, mutant: Mutant) -> np.ndarray | None:
        """Decodes a file as the bulk job does; None for a reject."""
        header = check(mutant.data, self._config.limits)
        if isinstance(header, ImageFaultError):
            return None
        try:
            return decode(mutant.data, header)
        except ImageFaultError:
            return None

    def _compare_served(
        self, mutant: Mutant, stored: bytes, header: ImageHeader, expected: np.ndarray
    ) -> None:
        try:
            served = self._decode(stored).numpy()
        except tf.errors.OpError as error:
            self._disagree(mutant, "served", _summary(error))
            return
        if served.shape != expected.shape:
            self._disagree(mutant, "pixels", f"shape {served.shape}, bulk job {expected.shape}")
        elif not np.array_equal(served, expected):
            different = int(np.count_nonzero(served != expected))
            self._disagree(mutant, "pixels", f"{different} of {expected.size} levels differ")
        if header.upright_size != expected.shape[:2]:
            self._disagree(mutant, "header", f"{header} of {expected.shape}")
        self._compare_signature(mutant, stored, expected)

    def _compare_signature(self, mutant: Mutant, stored: bytes, expected: np.ndarray) -> None:
        try:
            if self._validate(stored).numpy() != stored:
                self._disagree(mutant, "signature", "the stored file is rewritten")
        except tf.errors.OpError as error:
            self._disagree(mutant, "signature", _summary(error))
            return
        # How much of a partial image is smoothed depends on the version of the decoder.
        header = check(mutant.data, self._config.limits)
        if isinstance(header, ImageHeader) and header.convert == "partial progressive JPEG":
            return
        try:
            served = self._decode(self._validate(mutant.data)).numpy()
        except tf.errors.OpError:
            # The signature may reject what ingest converts, with a message.
            return
        same_size = served.shape[:2] == expected.shape[:2]
        if not same_size or not np.array_equal(_colour(served), _colour(expected)):
            self._disagree(mutant, "signature", f"{served.shape}, ingest {expected.shape}")

    def _disagree(self, mutant: Mutant, kind: str, detail: str) -> None:
        self.disagreements.append(Disagreement(mutant, kind, detail))


def _summary(error: tf.errors.OpError) -> str:
    """The line of an error that says what is wrong, without the places of the op."""
    lines = [line for line in error.message.splitlines() if line and line[0] not in " \t"]
    return next((line for line in reversed(lines) if "node" not in line), error.message)


def _colour(pixels: np.ndarray) -> np.ndarray:
    """What the model gets: alpha is dropped, and grey is a colour whose components are equal."""
    kept = pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., :1]
    return np.broadcast_to(kept, (*pixels.shape[:2], 3))


def mutants(
    seed: int, formats: tuple[str, ...] = FORMATS, more: Mapping[str, bytes] | None = None
) -> Iterator[Mutant]:
    """Yields the valid files of some formats, and then mutations of them without end.

    Args:
        seed: seed of the mutations.
        formats: names of the formats.
        more: files to mutate in addition, by `format/name`.
    """
    rng = random.Random(seed)
    files = [
        (name, data)
        for name, data in {**valid_files(), **(more or {})}.items()
        if name.partition("/")[0] in formats
    ]
    for name, data in files:
        yield Mutant(name, (), data)
    while True:
        for name, data in files:
            yield mutate(name, data, rng)


def images_in(folder: Path) -> dict[str, bytes]:
    """Reads a few images of each zip in a folder, by `format/name`."""
    found = {}
    for path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            members = (
                each
                for each in archive.infolist()
                if Path(each.filename).suffix.lower() in _FORMATS_OF and each.file_size < _LARGEST
            )
            for each in islice(members, _FROM_EACH):
                image_format = _FORMATS_OF[Path(each.filename).suffix.lower()]
                found[f"{image_format}/{each.filename}"] = archive.read(each)
    return found


def _save(folder: Path, found: Disagreement) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{found.kind}-{hashlib.sha256(found.mutant.data).hexdigest()[:12]}"
    (folder / name).write_bytes(found.mutant.data)


def main() -> None:
    """Compares until the time is over, and prints what was found, then the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder of zips; some of their images join the made files"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, help="folder for the files of disagreements")
    options = parser.parse_args()
    comparison = Comparison()
    source = mutants(options.seed, more=images_in(options.data) if options.data else None)
    end = time.monotonic() + options.seconds
    shown = 0
    while time.monotonic() < end:
        comparison.compare([next(source) for _ in range(_BATCH)])
        for found in comparison.disagreements[shown:]:
            if not options.json:
                steps = ", ".join(found.mutant.steps)
                print(f"{found.kind}: {found.mutant.seed} ({steps}): {found.detail}", flush=True)
            if options.save:
                _save(options.save, found)
        shown = len(comparison.disagreements)
    figures = {"disagreements": float(shown), "seconds": options.seconds}
    for name in FORMATS:
        figures[f"tried_{name}"] = comparison.tried[name]
        figures[f"accepted_{name}"] = comparison.accepted[name]
    print_record(figures, {"disagreements": 0.0})


if __name__ == "__main__":
    main()
