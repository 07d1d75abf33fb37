"""Defines the `report:` section: what the run report looks for on demand; importing it is cheap."""

from pydantic import Field

from trainer.options import Section


class ReportConfig(Section):
    """What the report of a run does on demand; no step depends on it, so none runs again."""

    label_errors: bool = Field(
        default=False,
        description="rank the labels of all labelled images by how likely they are wrong, in the "
        "report, `label_errors.parquet` and `label_errors.csv` beside it; the model answers for "
        "each image once more (docs/review.md has the cost)",
    )
