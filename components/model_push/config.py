"""Defines the `push:` section of the configuration: where blessed models go."""

import glob
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from components.model_push.google_cloud import CloudProject, require_vertex_region
from trainer.options import Section
from trainer.storage.addresses import names_bucket


class VertexEndpointConfig(Section):
    """A Vertex endpoint that every pushed model is deployed to, by TFX's own Pusher."""

    project: CloudProject = Field(description="Google Cloud project of the endpoint")
    region: Annotated[str, AfterValidator(require_vertex_region)] = Field(
        description="its region, as in `europe-west4`"
    )
    endpoint: str = Field(
        default="vaeline", min_length=1, description="its display name; made when missing"
    )
    image: str = Field(
        default="europe-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest",
        min_length=1,
        description="serving container; one of Vertex's prebuilt ones or your own",
    )
    machine_type: str = Field(default="n1-standard-4", description="of the serving machines")
    min_replicas: int = Field(default=1, ge=1, description="least serving machines")
    max_replicas: int = Field(default=1, ge=1, description="most serving machines")
    traffic_percentage: int = Field(
        default=100, ge=0, le=100, description="share of requests that the new model gets"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"push.vertex.max_replicas {self.max_replicas} is below min_replicas"
                f" {self.min_replicas}"
            )
        return self


class PushConfig(Section):
    """Where blessed models go."""

    directory: str = Field(
        default="{root}/pushed",
        min_length=1,
        description="the folder, or `gs://bucket/prefix`, `s3://` or `minio://`, that TF Serving "
        "watches; each model becomes a version in it",
    )
    user: str = Field(
        default="",
        description="who is recorded as the one who pushed; by default the account's name",
    )
    group: str = Field(
        default="",
        description="the group of this machine that can read the versions, such as that of the "
        "model server's account; those who can read the folder always can, whatever the umask",
    )
    vertex: VertexEndpointConfig | None = Field(
        default=None,
        description="deploy to a Vertex endpoint as well; on a cluster, whose artifacts lie at gs://",
    )

    @field_validator("directory")
    @classmethod
    def _folder_or_bucket(cls, directory: str) -> str:
        if "://" in directory and not names_bucket(directory):
            raise ValueError(
                f"{directory}: models are pushed to a folder, or to gs://bucket/prefix, s3:// or"
                " minio://"
            )
        if "://" not in directory and glob.has_magic(directory):
            raise ValueError(
                f"{directory}: TensorFlow takes * ? [ in the path of a model for a pattern, and"
                " could not load it; give another"
            )
        if directory.startswith("~"):
            # The shell leaves it in `--set push.directory=~/pushed`, too.
            raise ValueError(f"{directory}: ~ is not replaced here; write the whole path")
        return directory

    @model_validator(mode="after")
    def _known_group(self) -> Self:
        if self.group and "://" in self.directory:
            raise ValueError(
                f"push.group: {self.directory} knows no groups; the bucket's permissions say who"
                " can read it"
            )
        return self


def vertex_arguments(config: VertexEndpointConfig) -> dict[str, object]:
    """Returns the section as arguments of Vertex's `Model.deploy`, for TFX's Pusher."""
    return {
        "project": config.project,
        "endpoint_name": config.endpoint,
        "machine_type": config.machine_type,
        "min_replica_count": config.min_replicas,
        "max_replica_count": config.max_replicas,
        "traffic_percentage": config.traffic_percentage,
    }
