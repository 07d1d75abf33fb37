"""Defines what an ingest has to know: the input and the model's image. All its steps pass it on."""

from dataclasses import dataclass

from components.image_sources.config import InputConfig
from trainer.config import ImageConfig


@dataclass(frozen=True)
class IngestJob:
    """Holds the configuration of one ingest.

    Attributes:
        input: The input section, with spans resolved.
        image: The image that the network sees; None stores every image at its own size.
    """

    input: InputConfig
    image: ImageConfig | None = None

    @property
    def is_grouped(self) -> bool:
        """Returns whether near-duplicates share a split."""
        return self.input.duplicates.near == "group"
