"""Checks names of Google Cloud against its documented rules, before anything is sent there."""

from typing import Annotated, Final

from trainer.options import of_form
from trainer.storage.addresses import names_bucket

VERTEX_REGIONS: Final = (
    "africa-south1",
    "asia-east1",
    "asia-east2",
    "asia-northeast1",
    "asia-northeast2",
    "asia-northeast3",
    "asia-south1",
    "asia-south2",
    "asia-southeast1",
    "asia-southeast2",
    "australia-southeast1",
    "australia-southeast2",
    "europe-central2",
    "europe-north1",
    "europe-north2",
    "europe-southwest1",
    "europe-west1",
    "europe-west12",
    "europe-west2",
    "europe-west3",
    "europe-west4",
    "europe-west6",
    "europe-west8",
    "europe-west9",
    "me-central1",
    "me-central2",
    "me-west1",
    "northamerica-northeast1",
    "northamerica-northeast2",
    "southamerica-east1",
    "southamerica-west1",
    "us-central1",
    "us-east1",
    "us-east4",
    "us-east5",
    "us-south1",
    "us-west1",
    "us-west2",
    "us-west3",
    "us-west4",
)
"""Regions of Vertex AI: https://docs.cloud.google.com/vertex-ai/docs/general/locations, and
`SUPPORTED_REGIONS` of google-cloud-aiplatform, without its global endpoint and unlisted regions."""


def require_vertex_region(region: str) -> str:
    """Returns a region of Vertex AI; a validator of pydantic.

    Raises:
        ValueError: if there is no such region; the message lists them.
    """
    if region not in VERTEX_REGIONS:
        raise ValueError(f"expected one region of Vertex AI: {', '.join(VERTEX_REGIONS)}")
    return region


def require_bucket(address: str) -> str:
    """Returns an address in Cloud Storage; a validator of pydantic.

    Raises:
        ValueError: if it is elsewhere, or names no bucket.
    """
    if not (address.startswith("gs://") and names_bucket(address)):
        raise ValueError("expected gs://BUCKET or gs://BUCKET/FOLDER")
    return address


CloudRegion = Annotated[str, of_form(r"[a-z]+-[a-z]+[0-9]+", "a region, such as europe-west4")]
"""A name that has the form of a region, unlike that of a continent or a zone."""
CloudProject = Annotated[
    str,
    of_form(
        r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]*[a-z0-9]|[0-9]+|[a-z]",
        "a project's identifier: small letters, digits and hyphens",
    ),
]
"""A project's identifier or number, unlike its display name."""
ServiceAccount = Annotated[
    str, of_form(r"[^@\s]+@[^@\s]+", "an address, such as NAME@PROJECT.iam.gserviceaccount.com")
]
CloudNetwork = Annotated[
    str,
    of_form(
        r"projects/[0-9]+/global/networks/[a-z0-9-]+",
        "projects/NUMBER/global/networks/NAME, the project by its number",
    ),
]
"""The full name of a network, as Vertex wants it."""
