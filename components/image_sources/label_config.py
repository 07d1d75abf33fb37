"""Defines the `input.labels` section: where labels come from, and which names they have.

`config.py` puts it into the `input:` section.
"""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator

from trainer.options import Section


def as_tuple(paths: object) -> object:
    """Accepts one path where several may be given."""
    return (paths,) if isinstance(paths, str) else paths


class LabelsConfig(Section):
    """Where labels come from."""

    source: Literal["auto", "none"] = Field(
        default="auto",
        description=(
            "auto: parent folder, sidecar file, label file, column or feature, whichever the"
            " format has. none: every image is unlabelled."
        ),
    )
    unreadable: Literal["reject", "ignore"] = Field(
        default="reject",
        description=(
            "What becomes of an image whose label can't be read: a damaged .json file, a list, a"
            " number without a name. reject: a reject. ignore: an image without a label. Bulk jobs"
            " ignore such labels unless `bulk.input.labels.unreadable` is set."
        ),
    )
    names: tuple[str, ...] = Field(
        default=(),
        description="Class names by number, for formats that hold numbers (IDX, TFRecord).",
    )
    level: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=(
            "How many folders above an image its label is: 1 is the folder that holds it, 2 the"
            " one above. null: the folder that holds it, or the one above where that folder is"
            " named `images` or the like."
        ),
    )
    pattern: str = Field(
        default="",
        description=(
            "Regular expression for names that hold the label, searched in the path of an image in"
            " its folder, archive or table; the first group is the label: `([a-z]+)\\.\\d+\\.jpg$`"
            " for `train/cat.0.jpg`. Empty: folders name the classes."
        ),
    )
    corrections: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description=(
            "Files that `vaeline review apply` wrote, `corrections.csv`: labels that people changed"
            " and images that they took out, by content. A later file takes precedence."
        ),
    )
    min_images: int = Field(
        default=2, ge=1, description="A class with fewer images fails the run, before any training."
    )

    _are_of_model: bool = PrivateAttr(default=False)

    def with_names_of_model(self, names: tuple[str, ...]) -> "LabelsConfig":
        """Returns a copy with the names of a model's training, unless it has names of its own.

        Names that a file has beside its numbers take precedence over these.
        """
        if "names" in self.model_fields_set or not names:
            return self
        copy = self.model_copy(update={"names": names})
        copy._are_of_model = True
        return copy

    def names_beside(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the class names by number for a file which has given ones, or none."""
        return given if given and self._are_of_model else self.names or given

    @field_validator("pattern")
    @classmethod
    def _require_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"is no regular expression of Python: {error}") from error
        if pattern and not groups:
            raise ValueError("has no group, which would be the label: ([a-z]+) in parentheses")
        return pattern
