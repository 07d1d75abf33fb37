"""What a cluster remembers of its trainings: one small JSON file beside the artifacts.

A laptop asks its metadata store; on Kubeflow and Vertex the store is the platform's own, and a
step can't read it. Written by the RunRecord step, read by the InputState step.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

from components.retraining.reasons import Attempt

_MOST_ATTEMPTS = 1000


def history_path(pipeline_root: str, pipeline_name: str) -> str:
    """Names the file below the root of the artifacts."""
    return f"{pipeline_root.rstrip('/')}/retraining/{pipeline_name}.json"


def to_json(attempts: Sequence[Attempt]) -> str:
    """Writes attempts, oldest first; the oldest of very many are dropped."""
    kept = [asdict(attempt) for attempt in attempts[-_MOST_ATTEMPTS:]]
    return json.dumps({"attempts": kept}, indent=1) + "\n"


def from_json(path: str, text: str) -> list[Attempt]:
    """Reads what `to_json` wrote.

    Raises:
        ValueError: The file is damaged; it names the file and what to do.
    """
    try:
        return [Attempt(**attempt) for attempt in json.loads(text)["attempts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: is no record of trainings ({error}); remove it, and the next run trains"
        ) from error
