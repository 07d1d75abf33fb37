"""Computes the features that the evaluation slices by, and makes equal batches.

TFX's Evaluator calls `custom_extractors`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue
from tensorflow_model_analysis.extractors import slice_key_extractor

from components.model_gate import metric_names
from trainer.data import features

_SUFFIXES = rb"zip|tar|tar\.\w+|tgz|taz|tbz2?|tb2|txz|tzst|tfrec\w*(?:-\d+-of-\d+)?|parquet|gz"
_ARCHIVE = re.compile(rb"^(.*?\.(?:" + _SUFFIXES + rb"))/", re.I)
_SMALLEST_OCTAVE = 8
_ROWS = 256
"""Records of a batch."""
_BYTES = 8 << 20
"""Bytes above which batches have fewer records, because they hold photographs."""


def custom_extractors(
    eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any
) -> Sequence[tfma.extractors.Extractor]:
    """Returns TFMA's extractors and two of ours.

    Args:
        eval_shared_model: The models.
        eval_config: TFMA's configuration.
        tensor_adapter_config: Conversion of records to tensors.

    Returns:
        The extractors in order; one that makes batches of equal size comes first, and one for the
        features precedes the slicing.
    """
    extractors = tfma.default_extractors(
        eval_shared_model=eval_shared_model,
        eval_config=eval_config,
        tensor_adapter_config=tensor_adapter_config,
    )
    (place,) = (
        at
        for at, extractor in enumerate(extractors)
        if extractor.stage_name == slice_key_extractor.SLICE_KEY_EXTRACTOR_STAGE_NAME
    )
    ours = tfma.extractors.Extractor(
        stage_name="ExtractImageSlices", ptransform=beam.Map(_add_slices)
    )
    equal = tfma.extractors.Extractor(
        stage_name="MakeEqualBatches", ptransform=beam.ParDo(_EqualBatches())
    )
    return [equal, *extractors[:place], ours, *extractors[place:]]


class _EqualBatches(beam.DoFn):
    """Makes batches of equal size, except for the last of a bundle.

    Beam makes batches of up to 1,000 records, of any size, and TensorFlow's oneDNN keeps hundreds
    of KiB of compiled kernels for each size that it has seen.
    """

    def start_bundle(self) -> None:
        """Begins without records."""
        self._waiting: list[pa.RecordBatch] = []

    def process(self, element: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Adds a batch, and yields those that are full."""
        records = element[tfma.ARROW_RECORD_BATCH_KEY]
        # Without a schema, a batch lacks the features that no record of it has.
        if self._waiting and not self._waiting[0].schema.equals(records.schema):
            yield from self._take(with_rest=True)
        self._waiting.append(records)
        yield from self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the rest."""
        window = GlobalWindow()
        for extracts in self._take(with_rest=True):
            yield WindowedValue(extracts, window.max_timestamp(), [window])

    def _rows(self) -> int:
        """Returns the size of the next batches, a power of two, so that there are few of them."""
        count = sum(batch.num_rows for batch in self._waiting)
        fitting = _BYTES * count // max(1, sum(batch.nbytes for batch in self._waiting))
        return min(_ROWS, 1 << max(0, fitting.bit_length() - 1))

    def _take(self, *, with_rest: bool = False) -> Iterator[dict[str, Any]]:
        """Yields full batches from what is waiting, and what is left as one if that is asked."""
        rows = self._rows()
        least = 1 if with_rest else rows
        if sum(batch.num_rows for batch in self._waiting) < least:
            return
        (records,) = pa.Table.from_batches(self._waiting).combine_chunks().to_batches()
        start = 0
        while (size := min(rows, records.num_rows - start)) >= least:
            # Copied, because not every reader of Arrow's arrays respects the offset of a slice.
            chosen = records.take(pa.array(range(start, start + size)))
            yield {tfma.ARROW_RECORD_BATCH_KEY: chosen}
            start += size
        self._waiting = [records.slice(start)] if start < records.num_rows else []


def _add_slices(extracts: dict[str, Any]) -> dict[str, Any]:
    raw = extracts[tfma.FEATURES_KEY]
    text, name, height, width = (
        _first(raw.get(feature))
        for feature in (features.LABEL_TEXT, features.FILENAME, features.HEIGHT, features.WIDTH)
    )
    slices = {}
    if text is not None:
        slices[metric_names.CLASS_SLICE] = np.array([text])
    if name is not None:
        slices[metric_names.ARCHIVE_SLICE] = np.array([archive(name, text or b"")])
    if height is not None and width is not None:
        slices[metric_names.SIZE_SLICE] = np.array([size(int(height), int(width)).encode()])
    # The model has already processed the image; passing it on to the groups would cost memory.
    kept = {key: value for key, value in raw.items() if key != features.ENCODED}
    return {**extracts, tfma.FEATURES_KEY: {**kept, **slices}}


def archive(name: bytes, label: bytes = b"") -> bytes:
    """Returns the archive that contains an image.

    Args:
        name: `image/filename`, an archive's path and the member's name, or a file's path.
        label: Name of the class; a folder of that name is not treated as the archive.

    Returns:
        The path of the archive; for files in a folder tree, the folder that contains the class
        folders.
    """
    found = _ARCHIVE.match(name)
    if found:
        return found.group(1)
    folder = name.rpartition(b"/")[0]
    above, _, last = folder.rpartition(b"/")
    return above if label and last == label else folder


def size(height: int, width: int) -> str:
    """Returns the octave of the longer side, such as `17-32 px` for 17 to 32 pixels."""
    top = max(_SMALLEST_OCTAVE, 1 << (max(height, width) - 1).bit_length())
    return f"{top // 2 + 1 if top > _SMALLEST_OCTAVE else 1}-{top} px"


def _first(value: Any) -> Any:
    if value is None:
        return None
    values = np.asarray(value).reshape(-1)
    return values[0] if values.size else None
