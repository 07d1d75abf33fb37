"""Defines the options of formats that hold images, labels and names in columns or features.

`config.py` puts them into the `input:` section; the readers of these formats read them.
"""

from typing import Final

from pydantic import Field, field_validator

from trainer.options import Section

VALUE: Final = "{}"
"""Stands for the column's value in `manifest.pattern`."""


class ManifestConfig(Section):
    """Columns of a CSV, JSON Lines or Parquet manifest."""

    path: str = Field(
        default="path", description="Column of paths: absolute, or from the manifest."
    )
    pattern: str = Field(
        default=VALUE,
        description=(
            "Path of an image, in which `{}` stands for the column's value: `train/{}.jpg`, where"
            " the column holds names without folder and suffix."
        ),
    )
    label: str = Field(
        default="label", description="Column of labels; it may be absent or have gaps."
    )
    split: str = Field(
        default="split", description="Column of splits; it may be absent or have gaps."
    )

    @field_validator("pattern")
    @classmethod
    def _require_place(cls, pattern: str) -> str:
        if VALUE not in pattern:
            raise ValueError(f"has no {VALUE}, the place of the column's value: train/{VALUE}.jpg")
        return pattern


class ParquetConfig(Section):
    """Columns of Parquet files that hold images, such as those of Hugging Face's data sets."""

    image: str = Field(
        default="",
        description="Column of image files. Empty: the only one that holds bytes.",
    )
    label: str = Field(
        default="",
        description=(
            "Column of labels. Empty: `label`, or the only column of classes that Hugging Face's"
            " metadata names; without either, the folder in the column of names."
        ),
    )
    filename: str = Field(
        default="",
        description=(
            "Column of names. Empty: the path beside the bytes, or the column `manifest.path`;"
            " without one, the row."
        ),
    )
    split: str = Field(default="", description="Column of splits. Empty: the file's name.")


class TFRecordConfig(Section):
    """Feature keys of tf.Example records; the defaults are those of TensorFlow's image records."""

    encoded: str = Field(default="image/encoded", description="bytes: the image as a file.")
    label_text: str = Field(default="image/class/text", description="bytes: the class's name.")
    label: str = Field(default="image/class/label", description="int64: the class's number.")
    filename: str = Field(default="image/filename", description="bytes: the image's name.")


class WebDatasetConfig(Section):
    """Files of a sample in WebDataset shards: adjacent files that share a basename."""

    image: str = Field(
        default="",
        description=(
            "Suffix of the images, such as `jpg` or `left.png`; others beside them, such as masks,"
            " are then ignored. Empty: every image of a sample, under the sample's label."
        ),
    )
    label: str = Field(
        default="",
        description=(
            "Key of the label in the `.json` files. Empty: the `.cls` or `.txt` file, or the first"
            " of the keys `label`, `class`, `cls`, `class_name`."
        ),
    )


class TFDSConfig(Section):
    """Datasets of TensorFlow Datasets, named in `paths` as `tfds:name` or `tfds:name:version`."""

    data_dir: str | None = Field(
        default=None, description="Where prepared datasets are; TFDS's default."
    )
    download: bool = Field(
        default=False, description="Download and prepare a dataset that is missing."
    )
    image: str = Field(default="image", description="The image feature.")
    label: str = Field(default="label", description="The label feature.")
