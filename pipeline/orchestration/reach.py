"""Checks that the steps on a cluster can reach the paths of a configuration.

`compiler.py` calls it, and so do the commands before they import TFX, which takes seconds.
"""

from collections.abc import Iterable
from typing import Final

from pipeline.config import ConfigError, PipelineConfig
from pipeline.orchestration.config import ClusterConfig
from trainer.storage.addresses import names_bucket

_INPUT: Final = "input.paths"
_SCHEMA: Final = "schema.path"


def require_reach(config: PipelineConfig) -> ClusterConfig:
    """Returns the section `cluster` of a configuration whose paths its steps can reach.

    Raises:
        ConfigError: The section is missing, or a path is of no use on the platform.
    """
    if config.cluster is None:
        raise ConfigError("cluster: the section is missing; it says what runs the pipeline")
    for key, path in _paths(config):
        if "{root}" in path:
            raise ConfigError(f"{key}: {path} has no meaning on a cluster; give an address")
        _check_reach(key, path, config.cluster)
    return config.cluster


def _check_reach(key: str, path: str, cluster: ClusterConfig) -> None:
    # Braces may stand in the bucket's name, too.
    if path.startswith("gs://") and "{" not in path and not names_bucket(path):
        raise ConfigError(f"{key}: {path}: expected gs://BUCKET or gs://BUCKET/FOLDER")
    if path.startswith(("gs://", "/gcs/", "tfds:")):
        return
    is_address = "://" in path
    # TFX reads the schema with TensorFlow, which has no other file system.
    if is_address and (key == _SCHEMA or not names_bucket(path)):
        raise ConfigError(
            f"{key}: {path}: the steps have no such file system; give gs:// or a mounted folder"
        )
    if cluster.platform == "vertex":
        where = "needs credentials that its steps lack" if is_address else "is on this machine"
        raise ConfigError(f"{key}: {path} {where}; Vertex reads gs:// or /gcs/")
    if is_address and cluster.dataflow is not None and key.endswith(_INPUT):
        raise ConfigError(f"{key}: {path}: Dataflow's workers have no credentials; give gs://")
    if not is_address and not path.startswith("/"):
        # It would be a folder in the step's container, which is lost with it.
        raise ConfigError(
            f"{key}: {path} is relative; give an address, or the whole path of a folder that is"
            " mounted into the steps"
        )


def _paths(config: PipelineConfig) -> Iterable[tuple[str, str]]:
    inputs = {"": config.input}
    if config.bulk.in_pipeline and config.bulk.input is not None:
        inputs["bulk."] = config.bulk.input
    for section, images in inputs.items():
        yield from ((f"{section}{_INPUT}", path) for path in images.paths)
        yield from ((f"{section}input.labels.corrections", p) for p in images.labels.corrections)
    yield "push.directory", config.push.directory
    if config.data_schema.path is not None:
        yield _SCHEMA, config.data_schema.path
    backbone = config.model.backbone_options
    if backbone is not None and backbone.path:
        yield "model.backbone.weights", backbone.path
    if config.retrain.drift_report is not None:
        yield "retrain.drift_report", config.retrain.drift_report
