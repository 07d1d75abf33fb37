"""Defines the names of the features of an image record and of the splits.

They are spelled only here: ingest writes them; Transform, training, TFMA, serving and the bulk
jobs read them. The names are those of TensorFlow's image records.
"""

from typing import Final

ENCODED: Final = "image/encoded"
"""bytes [1]: the image as a JPEG or PNG file: the original; or a PNG, where the original has
another format, or is larger than the model's image (`input.store`)."""
FORMAT: Final = "image/format"
"""bytes [1]: format of the original by its content, such as `jpeg`, see `ImageHeader.format`."""
HEIGHT: Final = "image/height"
"""int64 [1]: rows of the original, upright, pixels."""
WIDTH: Final = "image/width"
"""int64 [1]: columns of the original, upright, pixels."""
CHANNELS: Final = "image/channels"
"""int64 [1]: 1 (grey), 3 (colour) or 4 (colour and alpha), of the original."""
FILENAME: Final = "image/filename"
"""bytes [1]: origin of the image: `archive.zip/member/path.png` or the path of a file."""
SHA256: Final = "image/key/sha256"
"""bytes [1]: SHA-256 of the image's original content, 64 lower-case hexadecimal digits."""
LABEL_TEXT: Final = "image/class/text"
"""bytes [0 or 1]: name of the class; missing for images without a label."""

TRAIN: Final = "train"
VALIDATION: Final = "validation"
"""Split for early stopping and schedules."""
CALIBRATION: Final = "calibration"
"""Split for the temperature, outlier thresholds and latent summaries."""
TEST: Final = "test"
"""Split for the gate only."""
UNLABELLED: Final = "unlabelled"

LABELLED_SPLITS: Final = (TRAIN, VALIDATION, CALIBRATION, TEST)
SPLITS: Final = (*LABELLED_SPLITS, UNLABELLED)
