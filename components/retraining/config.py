"""Defines the `retrain:` section: the reasons to retrain."""

from pydantic import Field

from trainer.options import Section


class RetrainConfig(Section):
    """What `vaeline retrain`, and a scheduled run on a cluster, take for a reason to train."""

    min_new_spans: int = Field(
        default=1,
        ge=1,
        description="train when so many spans are new since the last blessed model; drift or age "
        "make one enough. Without spans in `input.paths`, any change of the images counts",
    )
    max_age_days: float | None = Field(
        default=None,
        gt=0,
        description="train on what is new when the last blessed model is older than this",
    )
    drift_report: str | None = Field(
        default=None,
        description="a bulk job's output folder or its drift.json, local or gs://; an alarm later "
        "than the last blessed model is a reason to train on what is new",
    )
