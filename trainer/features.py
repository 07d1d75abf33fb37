"""Names of the features of an image record and of the splits.

The one place that spells them: ingest writes them, Transform, training, TFMA, serving and the
bulk jobs read them. The names are those of TensorFlow's image records.
"""

from typing import Final

ENCODED: Final = "image/encoded"
"""bytes [1]: the image as a JPEG or PNG file; other formats were converted to PNG."""
FORMAT: Final = "image/format"
"""bytes [1]: `jpeg` or `png`, read from the content and not from the name."""
HEIGHT: Final = "image/height"
"""int64 [1]: rows, pixels."""
WIDTH: Final = "image/width"
"""int64 [1]: columns, pixels."""
CHANNELS: Final = "image/channels"
"""int64 [1]: 1 (grey), 3 (colour) or 4 (colour and alpha), as stored in the file."""
FILENAME: Final = "image/filename"
"""bytes [1]: where the image came from: `archive.zip/member/path.png` or a file's path."""
SHA256: Final = "image/key/sha256"
"""bytes [1]: SHA-256 of the image's content as it was found, 64 lower-case hexadecimal digits."""
LABEL_TEXT: Final = "image/class/text"
"""bytes [0 or 1]: the class's name; absent in images without a label."""

TRAIN: Final = "train"
VALIDATION: Final = "validation"
"""Early stopping and schedules."""
CALIBRATION: Final = "calibration"
"""Temperature, outlier threshold, latent summaries."""
TEST: Final = "test"
"""The gate, and nothing else."""
UNLABELLED: Final = "unlabelled"

LABELLED_SPLITS: Final = (TRAIN, VALIDATION, CALIBRATION, TEST)
SPLITS: Final = (*LABELLED_SPLITS, UNLABELLED)
