"""Selects the devices for training: one, all local GPUs, or the workers that TF_CONFIG names.

`train.py` and entry points that start workers call it. Create a multi-worker strategy before any
other TensorFlow operation (tensorflow/tensorflow#55178).
"""

import functools
import json
import os
from typing import Any

import tensorflow as tf

from trainer.cores import limit_threads


def cluster_size(environment: str | None) -> int:
    """Counts the training workers that a TF_CONFIG names: chief or master, and workers.

    Args:
        environment: value of TF_CONFIG, or None if it is not set.

    Raises:
        ValueError: the value is not a JSON object.
    """
    if not environment:
        return 1
    try:
        cluster = json.loads(environment).get("cluster", {})
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG is not a JSON object: {error}") from error
    return sum(len(cluster.get(role, ())) for role in ("chief", "master", "worker")) or 1


def create_strategy(devices: str) -> Any:
    """Creates the tf.distribute strategy for the configuration and the machine.

    Args:
        devices: value of `trainer.devices`.

    Raises:
        ValueError: several workers are requested and TF_CONFIG names none.
    """
    limit_threads()
    environment = os.environ.get("TF_CONFIG")
    workers = cluster_size(environment)
    if devices == "multi_worker" and workers == 1:
        raise ValueError(
            "trainer.devices: multi_worker needs several workers in TF_CONFIG; use auto"
        )
    if workers > 1 and devices in ("auto", "multi_worker"):
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=_resolver(environment))
    gpus = tf.config.list_logical_devices("GPU")
    if devices == "mirrored":
        return _mirrored(tuple(d.name for d in gpus or _cpus()))
    if devices == "auto" and len(gpus) > 1:
        return _mirrored(tuple(d.name for d in gpus))
    return tf.distribute.get_strategy()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> Any:
    """Returns one strategy per process, because two would share collective keys.

    The tuner and the trainer each ask for one.
    """
    return tf.distribute.MirroredStrategy(list(devices))


def _cpus() -> list[Any]:
    return tf.config.list_logical_devices("CPU")


def _resolver(environment: str | None) -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns the resolver of a cluster whose first worker may be called chief or master.

    Vertex uses `chief`, older Kubeflow operators `master` (tensorflow/tfx#4587), which the strategy
    does not support. Parameter servers and evaluators take no part in the training.
    """
    settings = json.loads(environment or "{}")
    known = {"chief": "chief", "master": "chief", "worker": "worker"}
    cluster = {
        known[role]: list(hosts) for role, hosts in settings["cluster"].items() if role in known
    }
    task = settings["task"]
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster),
        task_type=known.get(task["type"], task["type"]),
        task_id=int(task["index"]),
        rpc_layer="grpc",
    )


def is_chief(strategy: Any) -> bool:
    """Returns whether this process writes checkpoints, logs and the export."""
    return bool(strategy.extended.should_checkpoint)


def is_clustered(strategy: Any) -> bool:
    """Returns whether several processes train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def agree(strategy: Any, wish: bool) -> bool:
    """Returns whether any worker wishes so; all workers must call it at the same steps.

    Decisions that depend on a clock or a signal must be shared, otherwise other workers would wait
    forever.
    """
    if not is_clustered(strategy):
        return wish

    wishes = strategy.run(lambda: tf.constant(float(wish)))
    return bool(strategy.reduce(tf.distribute.ReduceOp.SUM, wishes, axis=None).numpy() > 0)


def check_parts(parts: int, strategy: Any) -> None:
    """Checks `trainer.parts` against the devices.

    Raises:
        ValueError: there are several replicas, and another number of parts.
    """
    replicas = strategy.num_replicas_in_sync
    if parts > 1 and replicas not in (1, parts):
        raise ValueError(
            f"trainer.parts: {parts} parts can't be computed by {replicas} replicas; use one "
            f"device or {parts} replicas"
        )


def replica_share(key: str, batch_size: int, strategy: Any, parts: int = 1) -> int:
    """Returns the number of images of a global batch that one replica, or one part, takes.

    Args:
        key: name of the option that holds the batch size, for the message.
        batch_size: the global batch size.
        strategy: the distribution strategy.
        parts: value of `trainer.parts`.

    Raises:
        ValueError: the batch cannot be divided evenly.
    """
    replicas = max(strategy.num_replicas_in_sync, parts)
    if batch_size % replicas:
        kind = "parts" if parts > 1 else "replicas"
        raise ValueError(
            f"{key}: {batch_size} images can't be divided over {replicas} {kind}; use "
            f"{-(-batch_size // replicas) * replicas}"
        )
    return batch_size // replicas
