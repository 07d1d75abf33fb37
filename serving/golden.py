"""The golden set: images with the answers of the model in memory, kept beside the export.

The Trainer writes it; ServingCheck holds the SavedModel, the bulk job and a server against it.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import tensorflow as tf

from serving import names
from serving.admission import MAX_PIXELS, admit
from trainer import features

if TYPE_CHECKING:
    # ServingCheck reads golden sets and runs no trainer: its code digest leaves the trainer out.
    from trainer.model import VaeClassifier
    from trainer.preprocessing import RecordTransform

ANSWERS: Final = (
    names.PROBABILITIES,
    names.EMBEDDING,
    names.ELBO,
    names.RECONSTRUCTION_ERROR,
    names.OUTLIER_SCORE,
)
"""Outputs whose numbers are compared; float32."""

MOST_IMAGES: Final = 60
MOST_BYTES: Final = 8 * 1024 * 1024

_FILES, _LENGTHS, _LEVELS = "files", "lengths", "levels"
_SEED: Final = 20260801


@dataclass(frozen=True)
class GoldenSet:
    """Images and what the trained model says of them.

    Attributes:
        files: image files.
        levels: uint8 [n, height, width, channels], as the trainer's own input reads them.
        answers: float32 [n, ...] by name, one for each of `ANSWERS`.
    """

    files: list[bytes]
    levels: np.ndarray
    answers: dict[str, np.ndarray]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)


def answer_in_memory(
    model: "VaeClassifier",
    transform: "RecordTransform",
    files: Sequence[bytes],
    *,
    max_pixels: int = MAX_PIXELS,
) -> GoldenSet:
    """Sends images through the trainer's input and the model in memory.

    Args:
        model: Trained and calibrated.
        transform: The graph it was trained behind.
        files: Images of the training data. Files of other kinds are added, so that every way of
            decoding is held against the others, whatever the data are.
        max_pixels: Height times width that the export's signatures accept.

    Returns:
        The set.
    """
    kept, total = [], 0
    for file in files[:MOST_IMAGES]:
        total += len(file)
        if total > MOST_BYTES:
            break
        kept.append(file)
    kept.extend(unusual_files())
    # The trainer's input knows plain files alone, as the ingest stores them.
    plain = admit(tf.constant(kept), max_pixels).numpy()
    levels, _ = transform.decode_examples(tf.constant([_record(file) for file in plain]))
    answers = model.analyse(tf.cast(levels, tf.float32) / 255.0)
    return GoldenSet(kept, levels.numpy(), {name: answers[name].numpy() for name in ANSWERS})


def write_golden(golden: GoldenSet, path: str) -> None:
    """Writes the set as one .npz file; no pickle is in it."""
    arrays: dict[str, np.ndarray] = {
        _FILES: np.frombuffer(b"".join(golden.files), np.uint8),
        _LENGTHS: np.array([len(file) for file in golden.files], np.int64),
        _LEVELS: golden.levels,
        **golden.answers,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(buffer.getvalue())


def read_golden(path: str) -> GoldenSet:
    """Reads what `write_golden` wrote.

    Raises:
        ValueError: There is no such set, or it is damaged; the message names the file.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file, np.load(io.BytesIO(file.read())) as arrays:
            content, ends = arrays[_FILES].tobytes(), np.cumsum(arrays[_LENGTHS])
            files = [
                content[end - length : end]
                for end, length in zip(ends, arrays[_LENGTHS], strict=True)
            ]
            answers = {name: arrays[name] for name in ANSWERS}
            return GoldenSet(files, arrays[_LEVELS], answers)
    except (tf.errors.OpError, OSError, KeyError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: no golden set to compare with: {reason}") from error


def unusual_files() -> list[bytes]:
    """Makes a JPEG with halved chroma, the same held sideways, a colour PNG and one of 16 bits.

    Returns:
        Four files of noise, of sizes that no model has, the same at every call.
    """
    random = np.random.default_rng(_SEED)
    # Coarse noise: after a resize something is left of it.
    noise = np.kron(random.integers(0, 256, (9, 7, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    photo = tf.io.encode_jpeg(noise, quality=90, chroma_downsampling=True).numpy()
    deep = np.kron(random.integers(0, 65536, (6, 8, 1)), np.ones((4, 4, 1))).astype(np.uint16)
    return [
        photo,
        _sideways(photo),
        tf.io.encode_png(noise).numpy(),
        tf.io.encode_png(deep).numpy(),
    ]


def _sideways(jpeg: bytes) -> bytes:
    """Puts an EXIF segment with orientation 6 behind the JPEG's start."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, 1) + entry + b"\x00\x00\x00\x00"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def _record(file: bytes) -> bytes:
    made = tf.train.Example()
    made.features.feature[features.ENCODED].bytes_list.value.append(file)
    return made.SerializeToString()
