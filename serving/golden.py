"""Defines the golden set: images with the outputs of the model in memory, kept with the export.

The Trainer writes it; ServingCheck validates the SavedModel, the bulk job and a server against it.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
import tensorflow as tf

from serving import names
from serving.input_validation import MAX_PIXELS, validate_files
from trainer.data import features
from trainer.data.graph_functions import unoptimised
from trainer.storage.arrays import ArraysError, read_arrays, write_arrays

if TYPE_CHECKING:
    # ServingCheck reads golden sets without the trainer, so its code digest must not cover it.
    from trainer.config import ImageConfig
    from trainer.data.preprocessing import RecordTransform
    from trainer.model.vae_classifier import VaeClassifier

ANSWERS: Final = (
    names.PROBABILITIES,
    names.EMBEDDING,
    names.ELBO,
    names.RECONSTRUCTION_ERROR,
    names.OUTLIER_SCORE,
)
"""Names of the float32 outputs that are compared."""

MOST_IMAGES: Final = 60
MOST_BYTES: Final = 8 * 1024 * 1024

_FILES, _LENGTHS, _LEVELS = "files", "lengths", "levels"
_SEED: Final = 20260801


@dataclass(frozen=True)
class GoldenSet:
    """Images with the outputs of the trained model.

    Attributes:
        files: image files.
        levels: uint8 [n, height, width, channels], as read by the trainer's input pipeline.
        answers: float32 [n, ...] by name, one array for each of `ANSWERS`.
    """

    files: list[bytes]
    levels: np.ndarray
    answers: dict[str, np.ndarray]

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.files)


def answer_in_memory(
    model: "VaeClassifier",
    transform: "RecordTransform",
    files: Iterable[bytes],
    *,
    max_pixels: int = MAX_PIXELS,
) -> GoldenSet:
    """Passes images through the trainer's input pipeline and the model in memory.

    Args:
        model: The trained and calibrated model.
        transform: The Transform graph that the model was trained with.
        files: Images of the training data; the first ones are read, up to `MOST_IMAGES` and
            `MOST_BYTES`. Files of other kinds are added, so that every decoding path is compared
            with the others, whatever the data.
        max_pixels: Largest height times width that the signatures accept.

    Returns:
        The golden set.
    """
    kept, total = [], 0
    for file in islice(files, MOST_IMAGES):
        total += len(file)
        if total > MOST_BYTES:
            break
        kept.append(file)
    kept.extend(unusual_files(transform.image, max_pixels))
    # The trainer's input pipeline reads only upright 8-bit files, as the ingest stores them.
    with unoptimised():
        plain = validate_files(tf.constant(kept), transform.image, max_pixels).numpy()
        levels, _ = transform.decode_examples(tf.constant([_record(file) for file in plain]))
    answers = model.analyse(tf.cast(levels, tf.float32) / 255.0)
    return GoldenSet(kept, levels.numpy(), {name: answers[name].numpy() for name in ANSWERS})


def write_golden(golden: GoldenSet, path: str) -> None:
    """Writes the set as one .npz file."""
    arrays: dict[str, np.ndarray] = {
        _FILES: np.frombuffer(b"".join(golden.files), np.uint8),
        _LENGTHS: np.array([len(file) for file in golden.files], np.int64),
        _LEVELS: golden.levels,
        **golden.answers,
    }
    write_arrays(path, arrays)


def read_golden(path: str) -> GoldenSet:
    """Reads a set that `write_golden` wrote.

    Raises:
        ValueError: The file is missing or damaged; the message names it.
    """
    try:
        arrays = read_arrays(path, (_FILES, _LENGTHS, _LEVELS, *ANSWERS))
    except (OSError, ArraysError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: no golden set to compare with: {reason}") from error
    content, ends = arrays[_FILES].tobytes(), np.cumsum(arrays[_LENGTHS])
    files = [
        content[end - length : end] for end, length in zip(ends, arrays[_LENGTHS], strict=True)
    ]
    return GoldenSet(files, arrays[_LEVELS], {name: arrays[name] for name in ANSWERS})


def unusual_files(image: "ImageConfig", max_pixels: int) -> list[bytes]:
    """Makes files that take every path to the model's pixels.

    Args:
        image: What the model needs.
        max_pixels: Largest height times width that the signatures accept.

    Returns:
        Files of noise, of sizes that no model has: a JPEG with subsampled chroma, a rotated copy, a
        colour PNG and a 16-bit PNG; and, unless it is too large, a JPEG that is decoded at half its
        size, with a rotated copy. They are equal at every call.
    """
    random = np.random.default_rng(_SEED)
    # Coarse noise survives a resize.
    noise = np.kron(random.integers(0, 256, (9, 7, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    photo = tf.io.encode_jpeg(noise, quality=90, chroma_downsampling=True).numpy()
    deep = np.kron(random.integers(0, 65536, (6, 8, 1)), np.ones((4, 4, 1))).astype(np.uint16)
    files = [
        photo,
        _sideways(photo),
        tf.io.encode_png(noise).numpy(),
        tf.io.encode_png(deep).numpy(),
    ]
    # Both sides are four times the model's longer side, so that the rotated copy is as large.
    block = -(-4 * max(image.height, image.width) // 7) + 1
    large = np.kron(random.integers(0, 256, (9, 7, 3)), np.ones((block, block, 1)))
    if large.shape[0] * large.shape[1] <= max_pixels:
        photo = tf.io.encode_jpeg(large.astype(np.uint8), chroma_downsampling=True).numpy()
        files += [photo, _sideways(photo)]
    return files


def _sideways(jpeg: bytes) -> bytes:
    """Inserts an EXIF segment with orientation 6 after the start marker of a JPEG."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, 1) + entry + b"\x00\x00\x00\x00"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def _record(file: bytes) -> bytes:
    made = tf.train.Example()
    made.features.feature[features.ENCODED].bytes_list.value.append(file)
    return made.SerializeToString()
