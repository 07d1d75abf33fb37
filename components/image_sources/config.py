"""Defines the `input:` section of the configuration: where images come from and their limits.

The pipeline's configuration includes it; every source, ingest and the bulk job read it.
"""

import glob
import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from components.image_sources.label_config import LabelsConfig, as_tuple
from components.image_sources.record_config import (
    ManifestConfig,
    ParquetConfig,
    TFDSConfig,
    TFRecordConfig,
    WebDatasetConfig,
)
from trainer.options import Section
from trainer.storage.config import StorageConfig

Store = Literal["original", "model_size", "auto"]
Format = Literal[
    "auto", "folder", "zip", "tar", "webdataset", "idx", "tfrecord", "tfds", "parquet", "manifest"
]  # fmt: skip

MIB: Final = 1024 * 1024
RATIO_FLOOR: Final = 16 * MIB
"""Uncompressed bytes up to which `LimitsConfig.max_ratio` is not enforced, because a blank page
compresses well; applies to zip members, compressed tar streams and the pixels of an image."""


class LimitsConfig(Section):
    """What one member and one archive may cost; beyond it a member is rejected, unread."""

    max_bytes: int = Field(
        default=32 * MIB,
        ge=1,
        description="Largest image file, bytes, after the archive's compression.",
    )
    max_pixels: int = Field(
        default=50_000_000, ge=1, description="Largest image, height times width, by its header."
    )
    max_ratio: float = Field(
        default=200.0,
        ge=1,
        description=(
            "Largest ratio of unpacked to packed bytes, of zip members, packed tar files and the"
            " pixels of images, each above 16 MiB unpacked. Deflate cannot pass 1,032."
        ),
    )
    max_tar_padding: int = Field(
        default=21 * 512,
        ge=0,
        description=(
            "Most zero bytes at the end of a tar: an end marker, and the rest of a record of 20"
            " blocks. More look like an unfinished download and fail the run; tars made with a"
            " larger `--blocking-factor` need more."
        ),
    )
    max_members: int = Field(
        default=100_000_000, ge=1, description="Most members of one archive; more fail the run."
    )


class SplitsConfig(Section):
    """How images are divided.

    Splits that the source names (folders, manifest, TFDS) are kept; each split that it does not
    name takes its share of train by a hash of the image's content.
    """

    source: Literal["auto", "hash"] = Field(
        default="auto",
        description="auto: named splits where there are any. hash: ignore the names.",
    )
    validation: float = Field(default=0.1, ge=0, lt=1, description="Share of the labelled images.")
    calibration: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the labelled images."
    )
    test: float = Field(default=0.1, ge=0, lt=1, description="Share of the labelled images.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Another seed gives another division.")

    @model_validator(mode="after")
    def _leave_train(self) -> Self:
        """Checks that the held-out shares leave something to train on."""
        held_out = self.validation + self.calibration + self.test
        if held_out >= 1:
            raise ValueError(
                f"validation + calibration + test is {held_out:g}; it must be below 1, the rest"
                " is train"
            )
        return self


class SpansConfig(Section):
    """Which of the spans that match `{SPAN}` or `{YYYY}-{MM}-{DD}` in `paths` are read."""

    latest: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=1, description="The latest N spans, together: a rolling window; or all."
    )


class UnitsConfig(Section):
    """Size of a work unit: what one worker reads, checks and writes at a time."""

    members: int = Field(default=8192, ge=1, description="Most members of a unit.")
    max_bytes: int = Field(
        default=64 * MIB, ge=1, description="A unit ends when its bytes pass this."
    )
    batch: int = Field(default=1024, ge=1, description="Most members of a batch inside a unit.")


class DuplicatesConfig(Section):
    """What becomes of copies. `duplicates: drop` and `duplicates: keep` set `exact` only."""

    exact: Literal["drop", "keep"] = Field(
        default="drop",
        description=(
            "Exact copies. keep: copies stay where they share the first one's split; a copy that"
            " would sit in another split is dropped all the same."
        ),
    )
    near: Literal["off", "report", "group"] = Field(
        default="off",
        description=(
            "Images that were re-encoded, resized, slightly cropped or brightened. report: they are"
            " listed in groups; group: they also share a split, and copies of images that the"
            " source names for validation, calibration or test are dropped."
        ),
    )


Finding = Literal[
    "dark", "bright", "blurred", "low_contrast", "blank", "odd_aspect_ratio", "odd_size", "grey"
]
"""What may be found about an image."""
FINDINGS: Final[tuple[Finding, ...]] = get_args(Finding)


class FindingsConfig(Section):
    """Images that are dark, blurred, blank or odd, as compared with the training images.

    They are listed and counted, and never left out.
    """

    enabled: bool = Field(default=True, description="Look for them, and list them.")
    tolerance: float = Field(
        default=1.0,
        gt=0,
        description=(
            "How far beyond the training images' spread the bounds lie; larger: fewer findings. A"
            " bulk job takes the bounds from the model, and ignores it."
        ),
    )
    below: dict[Literal["dark", "blurred", "low_contrast", "blank", "odd_size", "grey"], float] = (
        Field(
            default={},
            description="Bounds of your own, by finding: smaller measures are found. 0: none are.",
        )
    )
    above: dict[Literal["bright", "odd_aspect_ratio", "odd_size"], float] = Field(
        default={}, description="Bounds of your own, by finding: larger measures are found."
    )


def _as_duplicates(value: object) -> object:
    """Accepts one word for exact copies where a section may be given."""
    return {"exact": value} if isinstance(value, str) else value


def _require_codec(name: str) -> str:
    """Refuses what is no text encoding of Python."""
    try:
        "".encode(name)
    except LookupError as error:
        raise ValueError(f"{name!r} is no encoding that Python knows") from error
    return name


def _require_utf8(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses paths that no configuration file, table or message could hold."""
    for path in paths:
        if not path.isascii() and any("\ud800" <= char <= "\udfff" for char in path):
            shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            raise ValueError(f"{shown}: the name is not UTF-8; rename the file or folder")
    return paths


def absolute_path(path: str) -> str:
    """Returns a local path from the root; addresses and names of datasets stay as they are."""
    if not path or "://" in path or path.startswith("tfds:"):
        return path
    whole = path
    if not os.path.isabs(path):
        here = os.getcwd()
        if glob.has_magic(path) and not os.path.exists(path):
            here = glob.escape(here)
        # In a glob, a slash at the end means that only folders match.
        whole = str(Path(here, path)) + "/" * path.endswith("/")
    if ".." not in whole.split("/"):
        return whole
    # One image has one key, from whichever folder it was named. Behind a link, `..` is another
    # folder than the one before it.
    plain = os.path.normpath(whole) + "/" * whole.endswith("/")
    return plain if os.path.realpath(plain) == os.path.realpath(whole) else whole


class InputConfig(Section):
    """Images in any archive, their labels and splits, and what is accepted."""

    paths: Annotated[tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_require_utf8)] = (
        Field(
            min_length=1,
            description="Files, folders, globs, `gs://` and `s3://` addresses, or `tfds:name`.",
        )
    )
    format: Format = Field(
        default="auto", description="auto: by the path's name and what is there."
    )
    names_encoding: Annotated[str, AfterValidator(_require_codec)] | None = Field(
        default=None,
        description=(
            "Encoding of names in zips and tars that are not UTF-8: gbk, cp866, shift_jis, ..."
            " null: cp437 in zips, replacement characters in tars."
        ),
    )
    labels: LabelsConfig = LabelsConfig()
    splits: SplitsConfig = SplitsConfig()
    limits: LimitsConfig = LimitsConfig()
    manifest: ManifestConfig = ManifestConfig()
    parquet: ParquetConfig = ParquetConfig()
    tfrecord: TFRecordConfig = TFRecordConfig()
    tfds: TFDSConfig = TFDSConfig()
    webdataset: WebDatasetConfig = WebDatasetConfig()
    spans: SpansConfig = SpansConfig()
    storage: StorageConfig = StorageConfig()
    units: UnitsConfig = UnitsConfig()
    store: Store = Field(
        default="auto",
        description=(
            "What a record holds. original: the file; model_size: a lossless PNG of the pixels that"
            " the model sees, so that no later step decodes a photo; auto: that PNG where the image"
            " has more pixels than the model's."
        ),
    )
    duplicates: Annotated[DuplicatesConfig, BeforeValidator(_as_duplicates)] = DuplicatesConfig()
    findings: FindingsConfig = FindingsConfig()
    max_rejected_share: float = Field(
        default=0.05, ge=0, le=1, description="The run fails when more of the members are rejected."
    )

    def absolute(self) -> "InputConfig":
        """Returns the section with absolute paths, from which the keys of images are made.

        An image has the same key whoever reads it, and in whichever folder that process started.
        """
        data_dir = self.tfds.data_dir and absolute_path(self.tfds.data_dir)
        return self.model_copy(
            update={
                "paths": tuple(absolute_path(path) for path in self.paths),
                "labels": self.labels.model_copy(
                    update={
                        "corrections": tuple(map(absolute_path, self.labels.corrections)),
                    }
                ),
                "tfds": self.tfds.model_copy(update={"data_dir": data_dir}),
            }
        )
