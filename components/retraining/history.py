"""Stores the history of trainings on a cluster in one small JSON file next to the artifacts.

Local runs query their metadata store; on Kubeflow and Vertex the store belongs to the platform,
and a step cannot read it. The RunRecord step writes the file, the InputState step reads it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

from components.retraining.reasons import Attempt

_MOST_ATTEMPTS = 1000


def history_path(pipeline_root: str, pipeline_name: str) -> str:
    """Returns the path of the file below the root of the artifacts."""
    return f"{pipeline_root.rstrip('/')}/retraining/{pipeline_name}.json"


def to_json(attempts: Sequence[Attempt]) -> str:
    """Returns attempts as JSON, oldest first; the oldest are dropped if there are very many."""
    kept = [asdict(attempt) for attempt in attempts[-_MOST_ATTEMPTS:]]
    return json.dumps({"attempts": kept}, indent=1) + "\n"


def from_json(path: str, text: str) -> list[Attempt]:
    """Parses attempts that `to_json` returned.

    Raises:
        ValueError: if the file is damaged; the message names the file and the fix.
    """
    try:
        return [Attempt(**attempt) for attempt in json.loads(text)["attempts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: is no record of trainings ({error}); remove it, and the next run trains"
        ) from error
