"""Checks names of Google Cloud against its documented rules, before anything is sent there."""

import re
from typing import Final

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

_REGION: Final = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_PROJECT: Final = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]*[a-z0-9]|[0-9]+|[a-z]")
_ACCOUNT: Final = re.compile(r"[^@\s]+@[^@\s]+")
_NETWORK: Final = re.compile(r"projects/[0-9]+/global/networks/[a-z0-9-]+")


def require_vertex_region(region: str) -> str:
    """Returns a region of Vertex AI; a validator of pydantic.

    Raises:
        ValueError: if there is no such region; the message lists them.
    """
    if region not in VERTEX_REGIONS:
        raise ValueError(f"expected one region of Vertex AI: {', '.join(VERTEX_REGIONS)}")
    return region


def require_region(region: str) -> str:
    """Returns a name that has the form of a region; a validator of pydantic.

    Raises:
        ValueError: if it is a continent, a zone or something else.
    """
    if not _REGION.fullmatch(region):
        raise ValueError("expected a region, such as europe-west4")
    return region


def require_bucket(address: str) -> str:
    """Returns an address in Cloud Storage; a validator of pydantic.

    Raises:
        ValueError: if it is elsewhere, or names no bucket.
    """
    if not (address.startswith("gs://") and names_bucket(address)):
        raise ValueError("expected gs://BUCKET or gs://BUCKET/FOLDER")
    return address


def require_project(project: str) -> str:
    """Returns a project's identifier or number; a validator of pydantic.

    Raises:
        ValueError: if it has another form, such as that of a project's display name.
    """
    if not _PROJECT.fullmatch(project):
        raise ValueError("expected a project's identifier: small letters, digits and hyphens")
    return project


def require_account(account: str) -> str:
    """Returns the address of a service account; a validator of pydantic.

    Raises:
        ValueError: if it has another form.
    """
    if not _ACCOUNT.fullmatch(account):
        raise ValueError("expected an address, such as NAME@PROJECT.iam.gserviceaccount.com")
    return account


def require_network(network: str) -> str:
    """Returns the full name of a network, as Vertex wants it; a validator of pydantic.

    Raises:
        ValueError: if it has another form.
    """
    if not _NETWORK.fullmatch(network):
        raise ValueError("expected projects/NUMBER/global/networks/NAME, the project by its number")
    return network
