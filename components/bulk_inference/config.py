"""Defines the `bulk:` section of the configuration: one bulk job from archives to a table.

The pipeline's configuration includes it, and the command line builds one for a stand-alone job.
"""

from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Final, Literal

from pydantic import Field

from components.image_sources.config import InputConfig, absolute_path
from trainer.errors import InputError
from trainer.options import Section

CLASSIFY_COLUMNS: Final = (
    "key",
    "source",
    "member",
    "sha256",
    "format",
    "width",
    "height",
    "given_label",
    "label",
    "probability",
    "top_k_labels",
    "top_k_probabilities",
    "outlier_score",
    "verdict",
    "findings",
    "elbo",
    "embedding",
    "model_digest",
    "transform_digest",
    "calibration_digest",
    "code_digest",
)
"""Default columns of `vaeline classify`."""

EMBED_COLUMNS: Final = (
    "key",
    "source",
    "member",
    "sha256",
    "width",
    "height",
    "verdict",
    "embedding",
    "model_digest",
    "transform_digest",
)
"""Default columns of `vaeline embed`."""


DECODER_COLUMNS: Final = ("outlier_score", "verdict", "elbo", "reconstruction_error")
"""Columns that need the decoder and the likelihood; the score and the verdict unless the export's
outlier score rests on embedding or logits alone. `--fast` leaves them out."""


class BatchConfig(Section):
    """How much one model call takes; it is halved by itself where memory runs out."""

    max_images: int = Field(default=512, ge=1, description="Most images of one model call.")
    max_pixels: int = Field(
        default=16_000_000,
        ge=1,
        description="Most decoded pixels, height times width, of the images of one model call.",
    )


class EngineConfig(Section):
    """Where the job runs: a Beam runner, always named, never chosen by Beam."""

    runner: Literal["local", "prism", "dask", "flink", "spark", "dataflow"] = Field(
        default="local", description="local: this machine's cores."
    )
    master: str = Field(
        default="",
        description=(
            "Address of Dask's scheduler, of Prism's job endpoint, or of the master of Flink or"
            " Spark, as host:port. Empty: a Prism, Flink or Spark that the job starts itself."
        ),
    )
    region: str = Field(default="", description="Region of Dataflow.")
    workers: int = Field(
        default=0,
        ge=0,
        description="Cores used by each machine; 0: all that a worker process may use.",
    )
    processes: int = Field(
        default=0,
        ge=0,
        description=(
            "Worker processes of the local runner, each with its own model; 0: one for up to 16"
            " workers, because threads share one start-up and one model."
        ),
    )
    job_server_jar: str | None = Field(
        default=None, description="Local copy of Beam's Flink or Spark job server."
    )
    environment: Literal["LOOPBACK", "EXTERNAL", "DOCKER", "PROCESS"] | None = Field(
        default=None, description="Where Python workers of Prism, Flink and Spark live."
    )
    environment_config: str | None = Field(
        default=None, description="Address of the worker pool, or the container image."
    )
    parallelism: int = Field(default=0, ge=0, description="Flink and Spark slots; 0: workers.")
    options: tuple[str, ...] = Field(
        default=(), description="More Beam options, as on Beam's command line: `--key=value`."
    )

    def option(self, name: str) -> str:
        """Returns the last value of one of `options`; empty if it is not there."""
        flag, found = f"--{name}", ""
        for each, after in zip_longest(self.options, self.options[1:], fillvalue=""):
            key, equals, value = each.partition("=")
            if key == flag:
                # The value of an option may also be the next argument.
                found = value if equals else after
        return found


class DriftConfig(Section):
    """The archive against the training data that the model carries summaries of."""

    enabled: bool = Field(default=True, description="Write drift.json, drift.md and drift.png.")
    alarm_rate: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Share of undrifted archives that may alarm, over all tests together.",
    )
    fail: bool = Field(default=False, description="An alarm makes the command exit with 4.")
    picture: bool = Field(default=True, description="Draw drift.png.")


class BulkConfig(Section):
    """One bulk job: which images, which model, where to, and what goes into the table."""

    in_pipeline: bool = Field(
        default=False,
        description=(
            "A step of `vaeline run` labels the images of `bulk.input` with the model, if it was"
            " blessed; `bulk.model` and `bulk.output` are the step's own. No part of a job of its"
            " own."
        ),
    )
    input: InputConfig | None = Field(default=None, description="The images.")
    model: str = Field(
        default="",
        description=(
            "Folder of a model or of pushed versions, local, gs:// or s3://; an alias names one of"
            " these versions, as in `pushed@champion`."
        ),
    )
    output: str = Field(default="", description="Folder of the table; local, gs:// or s3://.")
    format: Literal["parquet", "jsonl", "csv", "tfrecord", "npy"] = Field(
        default="parquet",
        description="npy: embeddings as .npy shards, with a Parquet index of keys beside each.",
    )
    columns: tuple[str, ...] = Field(
        default=CLASSIFY_COLUMNS, min_length=1, description="Columns of the table, in order."
    )
    partition_by: Literal["archive", "none"] = Field(
        default="archive", description="archive: a folder `archive=NAME` for each archive."
    )
    duplicates: Literal["keep", "drop"] = Field(
        default="keep", description="drop: of exact copies only the first, in source order."
    )
    near_duplicates: bool = Field(
        default=False,
        description=(
            "Write near_duplicates.parquet: groups of images that differ by their encoding, size, a"
            " small crop or brightness."
        ),
    )
    max_rejected_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The job fails, its table complete, when more of the members are rejected.",
    )
    on_change: Literal["restart", "refuse"] = Field(
        default="restart",
        description=(
            "What to do with a table by another model, transform or other columns: recreate it,"
            " or stop."
        ),
    )
    overwrite: bool = Field(default=False, description="Remove an existing table and start over.")
    dry_run: bool = Field(
        default=False, description="Only estimate rows, time, memory and size from a sample."
    )
    report: bool = Field(
        default=True,
        description="`vaeline classify` and `embed` write report.html beside the table.",
    )
    batch: BatchConfig = BatchConfig()
    engine: EngineConfig = EngineConfig()
    drift: DriftConfig = DriftConfig()


class BulkJob(BulkConfig):
    """Holds the configuration of a bulk job that can run: images and output are set.

    No path depends on the current folder, which workers on other machines do not share.
    """

    input: InputConfig = Field(description="The images.")

    @classmethod
    def of(cls, config: BulkConfig) -> "BulkJob":
        """Returns the job that a configuration describes, with absolute paths.

        Raises:
            InputError: if it names no archive or no output, an output among the images, or a local
                path for Dataflow.
        """
        if config.input is None:
            raise InputError("no archive is named; give at least one (bulk.input.paths)")
        if not config.output:
            raise InputError("no output is named; give a folder (bulk.output)")
        if config.input.labels.corrections:
            raise InputError(
                "bulk.input.labels.corrections: only ingest corrects labels; leave it out"
            )
        inputs = config.input.absolute()
        if "unreadable" not in inputs.labels.model_fields_set:
            # Labels that an archive gives are one column of the table, and no reason to give none.
            labels = inputs.labels.model_copy(update={"unreadable": "ignore"})
            inputs = inputs.model_copy(update={"labels": labels})
        update = {
            "input": inputs,
            "model": absolute_path(config.model),
            "output": absolute_path(config.output),
        }
        job = cls(**{**dict(config), **update})
        job._require_output_elsewhere()
        if job.engine.runner == "dataflow":
            job._require_cloud_paths()
        return job

    def _require_output_elsewhere(self) -> None:
        output = PurePosixPath(self.output)
        for path in self.input.paths:
            if any(str(each) == path or each.match(path) for each in (output, *output.parents)):
                raise InputError(
                    f"{self.output}: in {path}, so that the job would read its own files as images;"
                    " name an output elsewhere"
                )

    def _require_cloud_paths(self) -> None:
        named = [("bulk.input.paths", path) for path in self.input.paths]
        named += [("bulk.model", self.model), ("bulk.output", self.output)]
        for key, path in named:
            if path.startswith("/"):
                raise InputError(
                    f"{key}: {path} is on this machine, which Dataflow's workers can't read;"
                    " copy it to gs://"
                )
