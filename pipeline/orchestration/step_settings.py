"""What each step's container gets on a cluster: size, accelerators, node, retries, timeout.

These are sections of `cluster:`, which `config.py` puts together; `resources.py` writes them into
the specification.
"""

import re
from typing import Final, Literal

from pydantic import Field, field_validator

from pipeline.orchestration.accelerators import (
    require_kubernetes_accelerator,
    require_vertex_accelerators,
    require_vertex_size,
)
from pipeline.runs.step import LABELLED_ONLY_EVALUATOR
from trainer.options import Section

ACCELERATED_STEPS: Final = (
    "Trainer", "Tuner", "ServingCheck", "Evaluator", LABELLED_ONLY_EVALUATOR, "BulkInference"
)  # fmt: skip
"""Steps that run the model, so that TensorFlow uses an accelerator if there is one."""

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_LABEL: Final = re.compile(rf"(?:[a-z0-9](?:[a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_NAME}")
_LABEL_VALUE: Final = re.compile(rf"(?:{_NAME})?")

PlatformName = Literal["vertex", "kubeflow"]


class RetryConfig(Section):
    """Whether a step that failed is started again, and after what pause."""

    count: int = Field(ge=0, le=10, description="attempts after the first one that failed")
    backoff_secs: int = Field(default=60, ge=0, le=3600, description="pause before the first retry")
    factor: int = Field(
        default=2,
        ge=1,
        le=10,
        description="each further pause is so many times longer; Kubeflow takes whole numbers only",
    )
    max_backoff_secs: int | None = Field(
        default=None, ge=1, description="longest pause, on Vertex; 3600 if it is not set"
    )


class StepSettings(Section):
    """What the container of a step gets."""

    cpu: float | None = Field(default=None, gt=0, description="cores")
    memory_gb: float | None = Field(default=None, gt=0, description="memory, GB")
    node_selector: dict[str, str] | None = Field(
        default=None, description="labels that the node must have; Kubeflow only"
    )
    timeout_secs: int | None = Field(
        default=None, ge=1, description="limit on one attempt, which fails when it is reached"
    )
    retries: RetryConfig | None = None

    @field_validator("node_selector")
    @classmethod
    def _are_labels(cls, labels: dict[str, str] | None) -> dict[str, str] | None:
        for name, value in (labels or {}).items():
            if not _LABEL.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
                raise ValueError(
                    f"{name}: {value} is no label of Kubernetes, such as"
                    " cloud.google.com/gke-accelerator: nvidia-l4"
                )
        return labels


class StepDefaults(StepSettings):
    """What every step but the Trainer gets, unless `cluster.per_step` names it."""

    cpu: float = Field(default=2, gt=0, description="cores")
    memory_gb: float = Field(default=8, gt=0, description="memory, GB")


class AcceleratedStep(StepSettings):
    """What one step gets, by its name; keys that are not set are taken from `cluster.steps`."""

    accelerator: str | None = Field(
        default=None,
        description="accelerator type: NVIDIA_TESLA_T4 and the like on Vertex, a resource such as "
        "nvidia.com/gpu on Kubeflow",
    )
    accelerators: int = Field(default=1, ge=1, description="how many accelerators")


class TrainerSettings(AcceleratedStep):
    """What the Trainer gets; nothing of it is taken from `cluster.steps`."""

    cpu: float = Field(default=4, gt=0, description="cores")
    memory_gb: float = Field(default=16, gt=0, description="memory, GB")
    accelerators: int = Field(default=1, ge=1, description="accelerators of each worker")
    workers: int = Field(
        default=1,
        ge=1,
        description="machines that train together (MultiWorkerMirroredStrategy); more than one "
        "needs Vertex, which gives each its TF_CONFIG",
    )
    machine_type: str = Field(
        default="n1-standard-8", description="Vertex: machine of each worker, if more than one"
    )


def check_settings(section: str, settings: AcceleratedStep, platform: PlatformName) -> None:
    """Checks what a step asks for against what the platform offers.

    Args:
        section: Key of the section, for the message.
        settings: The step's settings, completed by those of `cluster.steps`.
        platform: Who runs the step.

    Raises:
        ValueError: if the platform does not have it.
    """
    kind, count = settings.accelerator, settings.accelerators
    if kind is None and count > 1:
        raise ValueError(
            f"{section}.accelerators: {count} of which type? {section}.accelerator is missing"
        )
    if platform == "vertex":
        if settings.node_selector:
            raise ValueError(
                f"{section}.node_selector: Vertex selects the machine by cpu, memory_gb and"
                " accelerator; node selectors are for Kubeflow"
            )
        if kind is not None:
            require_vertex_accelerators(section, kind, count)
        require_vertex_size(
            section,
            cpu=settings.cpu or 0,
            memory_gb=settings.memory_gb or 0,
            kind=kind,
            count=count,
        )
        return
    if kind is not None:
        require_kubernetes_accelerator(section, kind)
    if settings.retries is not None and settings.retries.max_backoff_secs is not None:
        raise ValueError(
            f"{section}.retries.max_backoff_secs: Kubeflow can't limit a pause, only the time of"
            " all attempts together; remove the key"
        )
