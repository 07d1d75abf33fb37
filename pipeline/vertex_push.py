"""Builds the step that deploys a blessed model to a Vertex endpoint; `graph.py` calls it."""

from typing import Any

from tfx.dsl.components.base import base_node

from components.model_push.config import vertex_arguments
from components.tfx_api import tfx
from pipeline.config import ConfigError, PipelineConfig

VERTEX_PUSHER = "vertex_pusher"


def vertex_pushers(
    config: PipelineConfig, artifacts: str, blessed: dict[str, Any]
) -> list[base_node.BaseNode]:
    """Builds the step that deploys to a Vertex endpoint, if one is configured.

    Args:
        config: The configuration.
        artifacts: Root folder of all artifacts.
        blessed: The model and its blessings, as inputs of the step.

    Raises:
        ConfigError: Vertex cannot read the artifacts.
    """
    vertex = config.push.vertex
    if vertex is None:
        return []
    if not artifacts.startswith("gs://"):
        raise ConfigError(
            f"push.vertex: Vertex reads models from Cloud Storage only, and the artifacts of this"
            f" run lie in {artifacts}; run it on a cluster (`vaeline submit`), or leave"
            " push.vertex out"
        )
    vertex_ai = tfx.extensions.google_cloud_ai_platform
    pusher = vertex_ai.Pusher(
        **blessed,
        custom_config={
            vertex_ai.ENABLE_VERTEX_KEY: True,
            vertex_ai.VERTEX_REGION_KEY: vertex.region,
            vertex_ai.VERTEX_CONTAINER_IMAGE_URI_KEY: vertex.image,
            vertex_ai.SERVING_ARGS_KEY: vertex_arguments(vertex),
        },
    )
    return [pusher.with_id(VERTEX_PUSHER)]
