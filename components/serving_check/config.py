"""Defines the `serving_check:` section of the configuration."""

from pydantic import Field

from serving.tolerance import FLOATS
from trainer.options import Section

CHECKED_MODEL_ID = "checked_model_id"
"""Custom property of the check's blessing: the id of the checked model."""


class ServingCheckConfig(Section):
    """What the exported model has to prove in a fresh process before it may be pushed."""

    enabled: bool = Field(default=True, description="without it a blessed model is pushed as it is")
    tolerance: float = Field(
        default=FLOATS,
        gt=0,
        lt=1,
        description="largest difference from the answers in memory: absolute, and relative for "
        "numbers above 1; labels have to be equal wherever the two best differ by more",
    )
    batch_sizes: tuple[int, ...] = Field(
        default=(1, 64),
        min_length=1,
        description="images per request; every signature answers each",
    )
    latency_requests: int = Field(
        default=20, ge=1, description="requests that the reported latency is the median of"
    )
    timeout_secs: float = Field(
        default=300.0, gt=0, description="limit on the whole check; a model that hangs is refused"
    )
    server: str = Field(
        default="",
        description="address of a TF Serving that has the model (host:port, http://...). Without "
        "one, a tensorflow_model_server on the PATH is started on the model, over gRPC and REST",
    )
    server_model: str = Field(default="vaeline", description="the model's name on that server")
