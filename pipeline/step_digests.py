"""Computes a digest of the code that each step runs, so that other edits keep its cache valid.

TFX's cache key includes the dotted path of a function but not its code
(`run_fn="pipeline.run_fn.run_fn"` is the same string after an edit), so the graph adds a step's
digest to its exec properties.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pipeline.digests import project_root
from pipeline.imports import ImportGraph
from trainer.installed import library_versions

STEP_MODULES: Final[Mapping[str, Sequence[str]]] = {
    "ImageExampleGen": ("components.image_example_gen.component",),
    "SchemaGen": ("components.image_schema_gen.component",),
    "AnomalyGate": ("components.anomaly_gate.component",),
    "Transform": ("trainer.data.preprocessing",),
    "Tuner": ("pipeline.tuner_fn",),
    "Trainer": ("pipeline.run_fn",),
    "ServingCheck": ("components.serving_check.component",),
    "Evaluator": (
        "pipeline.slices",
        "pipeline.quality_metrics.classification",
        "pipeline.quality_metrics.change",
        "pipeline.quality_metrics.outputs",
        "components.pushed_baseline.executor",
    ),
    "ModelGate": ("components.model_gate.component",),
    "Pusher": ("components.model_push.component",),
    "BulkInference": ("components.bulk_inference.component",),
}
"""Modules in which a step enters the project's code, by step id.

Not listed are steps that run only TFX's code; Resolvers, InputState and `baseline-model`, which are
never cached; `base-model`, whose choice must stay the same for the same images; and RunRecord,
which would record the same training twice.
"""


def step_digests(root: Path | None = None) -> dict[str, str]:
    """Computes digests of the modules that each step may run and of their libraries' versions.

    Args:
        root: Folder that contains the project's packages; by default that of this module.

    Returns:
        16 hexadecimal digits by step, equal for equal code wherever it is installed.
    """
    graph = ImportGraph(root or project_root())
    libraries = sorted(library_versions().items())
    digests = {}
    for step, modules in STEP_MODULES.items():
        digest = hashlib.sha256()
        for module in graph.closure(modules):
            digest.update(module.encode())
            digest.update(hashlib.sha256(graph.files[module].read_bytes()).digest())
        for name, version in libraries:
            digest.update(f"{name}=={version}".encode())
        digests[step] = digest.hexdigest()[:16]
    return digests


def by_step(code_digest: str | Mapping[str, str]) -> Mapping[str, str]:
    """Returns digests by step; a single digest is used for every step."""
    if isinstance(code_digest, str):
        return dict.fromkeys(STEP_MODULES, code_digest)
    return code_digest
