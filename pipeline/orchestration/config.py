"""The `schedule:` and `cluster:` sections: when scheduled runs start, and what they run on."""

import datetime
import zoneinfo
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from components.model_push.google_cloud import (
    CloudNetwork,
    CloudProject,
    CloudRegion,
    ServiceAccount,
    require_bucket,
    require_vertex_region,
)
from pipeline.orchestration.accelerators import require_machine
from pipeline.orchestration.cron import normalise_cron
from pipeline.orchestration.step_settings import (
    AcceleratedStep,
    PlatformName,
    StepDefaults,
    TrainerSettings,
    check_settings,
)
from pipeline.runs.step import LABELLED_ONLY_TRAINER
from trainer.options import Section, of_form

# https://github.com/distribution/reference/blob/main/reference.go
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_ImageName = Annotated[
    str,
    of_form(
        rf"(?:[a-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
        r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
        "HOST/PATH/NAME@sha256:DIGEST, or a tag in place of a digest",
    ),
]
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*"
_NAME_EXPECTED = "a name of Kubernetes: small letters, digits and hyphens"
_KubernetesName = Annotated[str, of_form(_NAME, _NAME_EXPECTED)]
_SecretKey = Annotated[
    str, of_form(r"[A-Za-z0-9._-]{1,253}", "letters, digits, hyphens, dots and _")
]
# A token in place of its variable's name, or a password in an address, is not repeated.
_Variable = Annotated[
    str,
    of_form(
        r"[A-Za-z_][A-Za-z0-9_]{0,99}",
        "the name of an environment variable, never the token itself",
        hidden=True,
    ),
]
_Endpoint = Annotated[
    str,
    of_form(
        r"https?://(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?(?:/[^\s?#]*)?",
        "http:// or https:// with a host, if needed a port and a path, and no user and password",
        hidden=True,
    ),
]
_MachineType = Annotated[
    str, of_form(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)+", "a machine type, such as n2-standard-4")
]
_Subnetwork = Annotated[
    str,
    of_form(
        r"(?:https://www\.googleapis\.com/compute/v1/)?(?:projects/[^/\s]+/)?"
        r"regions/[a-z0-9-]+/subnetworks/[a-z0-9-]+",
        "regions/REGION/subnetworks/NAME",
    ),
]

TRAINERS = ("Trainer", LABELLED_ONLY_TRAINER)
"""Names of the steps that `cluster.trainer` describes."""


_NO_ZONES = ("localtime", "posixrules", "Factory", "posix/", "right/")
"""Beginnings of names in the time zone database that mean another time on every machine, or that
cluster schedulers don't know."""


def _require_zone(name: str) -> str:
    try:
        if name.startswith(_NO_ZONES):
            raise ValueError("not an IANA name")
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError("no time zone of that name; such as UTC or Europe/Berlin") from error
    return name


_TimeZone = Annotated[str, AfterValidator(_require_zone)]


class ScheduleConfig(Section):
    """When scheduled runs start; one at a time, and none is made up for."""

    cron: str = Field(
        default="0 3 * * *", description="minute, hour, day of month, month, day of week"
    )
    time_zone: _TimeZone = Field(default="UTC", description="IANA name, such as Europe/Berlin")
    start: datetime.datetime | None = Field(
        default=None, description="no run before; ISO 8601, in `time_zone` if it names none"
    )
    end: datetime.datetime | None = Field(default=None, description="no run after")

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        return normalise_cron(cron)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        start, end = self.instant(self.start), self.instant(self.end)
        if start is not None and end is not None and end <= start:
            raise ValueError("schedule.end is not after schedule.start")
        return self

    def instant(self, time: datetime.datetime | None) -> datetime.datetime | None:
        """Interprets a time without a zone in `time_zone`."""
        if time is None or time.tzinfo is not None:
            return time
        return time.replace(tzinfo=zoneinfo.ZoneInfo(self.time_zone))


class DataflowConfig(Section):
    """Dataflow as the engine of the Beam steps."""

    project: CloudProject = Field(description="Google Cloud project")
    region: CloudRegion = Field(description="such as europe-west4")
    temp_location: Annotated[str, AfterValidator(require_bucket)] = Field(
        description="gs:// folder for temporary files"
    )
    max_workers: int = Field(default=8, ge=1, description="most machines of one job")
    machine_type: _MachineType | None = Field(default=None, description="such as n2-standard-4")
    worker_image: _ImageName | None = Field(
        default=None, description="image of the workers; by default that of the steps"
    )
    service_account: ServiceAccount | None = Field(
        default=None, description="account of the workers"
    )
    subnetwork: _Subnetwork | None = Field(
        default=None, description="regions/REGION/subnetworks/NAME"
    )


class VertexConfig(Section):
    """Vertex AI Pipelines."""

    project: CloudProject = Field(description="Google Cloud project")
    region: Annotated[str, AfterValidator(require_vertex_region)] = Field(
        description="such as europe-west4"
    )
    service_account: ServiceAccount | None = Field(default=None, description="account of the steps")
    network: CloudNetwork | None = Field(
        default=None, description="projects/NUMBER/global/networks/NAME"
    )
    endpoint: _Endpoint | None = Field(
        default=None, description="address of a private endpoint; by default the region's"
    )
    token_variable: _Variable | None = Field(
        default=None,
        description="environment variable with an access token; by default Google's application "
        "default credentials",
    )


class KubeflowConfig(Section):
    """A Kubeflow Pipelines server."""

    endpoint: _Endpoint = Field(description="address of its API")
    namespace: Annotated[str, of_form(f"(?:{_LABEL})?", _NAME_EXPECTED)] = Field(
        default="", description="profile's namespace, in multi-user mode"
    )
    experiment_id: str = Field(default="", description="experiment of the runs; else the default")
    service_account: _KubernetesName | None = Field(
        default=None, description="account of the steps"
    )
    token_variable: _Variable = Field(
        default="KFP_TOKEN",
        description="environment variable with the bearer token; the token itself stays out of "
        "the configuration",
    )
    time_zone: _TimeZone = Field(
        default="UTC",
        description="zone of the server's schedules (its CRON_SCHEDULE_TIMEZONE); "
        "`schedule.time_zone` has to be the same, because a recurring run can't name one",
    )


class SecretConfig(Section):
    """A Kubernetes secret that steps get as an environment variable: names, never values."""

    name: _KubernetesName = Field(description="name of the Kubernetes secret")
    key: _SecretKey = Field(description="key in it")
    variable: Annotated[str, of_form(r"[A-Z][A-Z0-9_]*", "capitals, digits and _")] = Field(
        description="environment variable of the steps, such as S3_TOKEN"
    )


class ClusterConfig(Section):
    """What `vaeline compile`, `submit` and `schedule` need to run the pipeline elsewhere."""

    platform: PlatformName = Field(description="who runs the steps")
    image: _ImageName = Field(
        description="container image of the steps; by digest (name@sha256:...), so that a run "
        "can be repeated and its cache is right"
    )
    pipeline_root: str = Field(
        description="folder of the artifacts, gs://BUCKET/FOLDER; the steps can't write elsewhere"
    )
    steps: StepDefaults = StepDefaults()
    trainer: TrainerSettings = TrainerSettings()
    per_step: dict[str, AcceleratedStep] = Field(default={})
    dataflow: DataflowConfig | None = None
    vertex: VertexConfig | None = None
    kubeflow: KubeflowConfig | None = None
    secrets: tuple[SecretConfig, ...] = Field(
        default=(), description="Kubeflow: secrets that every step gets"
    )

    @field_validator("pipeline_root")
    @classmethod
    def _is_reached(cls, address: str) -> str:
        scheme, has_scheme, _ = address.partition("://")
        if has_scheme and scheme != "gs":
            # Kubeflow's launcher knows s3:// and minio://, but TFX's steps write by themselves.
            raise ValueError(
                f"the steps' TensorFlow has no file system {scheme}://; give gs://BUCKET/FOLDER"
            )
        return require_bucket(address)

    @property
    def names_digest(self) -> bool:
        """Whether the image is named by its digest, which is immutable, unlike a tag."""
        return "@sha256:" in self.image

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.platform == "vertex":
            if self.vertex is None:
                raise ValueError("cluster.vertex is missing: project and region")
            if self.secrets:
                raise ValueError(
                    "cluster.secrets: Vertex gives steps the rights of their service account; "
                    "secrets are for Kubeflow"
                )
        elif self.trainer.workers > 1:
            raise ValueError("cluster.trainer.workers: more than one needs platform vertex")
        variables = [secret.variable for secret in self.secrets]
        if twice := [name for name in variables if variables.count(name) > 1]:
            raise ValueError(f"cluster.secrets: two of them are for the variable {twice[0]}")
        self._check_steps()
        return self

    def settings(self, step: str) -> AcceleratedStep:
        """Returns what a step's container gets, completed by the values for every step."""
        if step in TRAINERS:
            return self.trainer
        own = self.per_step.get(step, AcceleratedStep())
        missing = {name: value for name, value in self.steps if getattr(own, name) is None}
        return own.model_copy(update=missing)

    def _check_steps(self) -> None:
        for name in TRAINERS:
            if name in self.per_step:
                raise ValueError(f"cluster.per_step.{name}: its section is cluster.trainer")
        check_settings("cluster.steps", self.settings(""), self.platform)
        check_settings("cluster.trainer", self.trainer, self.platform)
        for name in self.per_step:
            check_settings(f"cluster.per_step.{name}", self.settings(name), self.platform)
        if self.trainer.workers > 1:
            require_machine(
                self.trainer.machine_type, self.trainer.accelerator, self.trainer.accelerators
            )
        elif self.trainer.machine_type != TrainerSettings().machine_type:
            raise ValueError(
                "cluster.trainer.machine_type: it is that of several workers on Vertex; a single"
                " one gets a machine by cpu, memory_gb and accelerator"
            )
