"""Selects the earlier models that a run needs: one to compare with, and one to start from.

The graph's Resolvers use both strategies. TFX's own LatestBlessedModelStrategy returns the
candidate itself when a finished pipeline is run again unchanged: the Evaluator then has an input
that it did not have the first time, misses the cache, and compares a model with itself.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ml_metadata import proto
from tfx.dsl.components.common import resolver

from components.model_push.versions import newest_record
from components.serving_check.config import CHECKED_MODEL_ID
from trainer.progress import PROGRESS_LOGGER

_LOG = logging.getLogger(PROGRESS_LOGGER)

CANDIDATE = "candidate"
MODEL = "model"
BLESSING = "model_blessing"
INFRA_BLESSING = "infra_blessing"
EXAMPLES = "examples"
BASE_MODEL = "base_model"

# Custom properties of the gate's blessing; the check of the export sets only the second.
_BLESSED_MODEL_ID = "current_model_id"
_BLESSED = "blessed"
_FINGERPRINT = "input_fingerprint"
# The Trainer's exec property that holds its options and the digest of the code.
_SETTINGS = "custom_config"
# What the Pusher writes, as TFX names it, and its input.
_PUSHED_MODEL = "PushedModel"
_PUSHED_VERSION = "pushed_version"


@dataclass(frozen=True)
class _Training:
    """Describes how a model was trained: artifact ids by input, and the settings."""

    inputs: dict[str, list[int]]
    settings: Any


class LatestOtherBlessedModelStrategy(resolver.ResolverStrategy):
    """Resolves the latest blessed model that is not the candidate, with its blessing.

    The inputs are named `candidate` (the trained model), `model` and `model_blessing` (all of the
    pipeline's), and `infra_blessing` if exports are checked.

    After a rollback it is the model that is served again: those that were pushed later are passed
    over, unless the candidate is one of them or older.

    Args:
        directory: The folder of the pushed versions, local or in a store; may be missing.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Returns the baseline and its blessing; both lists are empty if there is none."""
        candidates = {artifact.id for artifact in input_dict[CANDIDATE]}
        blessings = _blessings(input_dict)
        taken_back = _taken_back(store, self._directory)
        # A run that was judged before the rollback gets the same baseline again, from the cache.
        if any(candidate < taken_back.stop for candidate in candidates):
            taken_back = range(0)
        eligible = [
            model
            for model in input_dict[MODEL]
            if model.id in blessings and model.id not in candidates and model.id not in taken_back
        ]
        baseline = max(eligible, key=lambda model: model.id, default=None)
        return {
            CANDIDATE: input_dict[CANDIDATE],
            MODEL: [baseline] if baseline else [],
            BLESSING: [blessings[baseline.id]] if baseline else [],
            INFRA_BLESSING: [],
        }


class WarmStartStrategy(resolver.ResolverStrategy):
    """Resolves the model that a training starts from.

    It is the latest blessed model that learned from other images; after a rollback it is none of
    those that were pushed later than the model that is served again. A model that was trained with
    another `input.splits` may have learned images of the test split, and is passed over. If the
    same training was done before, it is the model that that training started from, or none. A
    repeated run therefore has the same inputs and is served from the cache, whatever was blessed in
    the meantime.

    The inputs are `examples` and the Trainer's other inputs by their names, `model` and
    `model_blessing` (all of the pipeline's), and `infra_blessing` if exports are checked.

    Args:
        settings: The Trainer's `custom_config`, JSON.
        directory: The folder of the pushed versions, local or in a store; may be missing.
    """

    def __init__(self, settings: str, directory: str) -> None:
        self._settings = json.loads(settings)
        self._directory = directory

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Returns the model to start from; the list is empty if there is none."""
        models = sorted(input_dict[MODEL], key=lambda model: model.id)
        trainings = _trainings(store, [model.id for model in models])
        given = {
            key: [artifact.id for artifact in artifacts]
            for key, artifacts in input_dict.items()
            if key not in (MODEL, BLESSING, INFRA_BLESSING)
        }
        same = [
            training
            for training in trainings.values()
            if training.settings == self._settings
            and {key: ids for key, ids in training.inputs.items() if key in given} == given
        ]
        if same:
            wanted = set(same[-1].inputs.get(BASE_MODEL, []))
            found = [model for model in models if model.id in wanted]
        else:
            blessings = _blessings(input_dict)
            taken_back = _taken_back(store, self._directory)
            own = _fingerprints(store, given[EXAMPLES])
            others = [
                model
                for model in models
                if model.id in blessings
                and model.id not in taken_back
                and model.id in trainings
                and not own & _fingerprints(store, trainings[model.id].inputs.get(EXAMPLES, []))
            ]
            splits = _splits(self._settings)
            found = [each for each in others if _splits(trainings[each.id].settings) == splits]
            if others and others[-1:] != found[-1:]:
                _LOG.info(
                    "the last blessed model was trained with other input.splits and may know test"
                    " images; it is passed over"
                )
            found = found[-1:]
        return {**input_dict, MODEL: found, BLESSING: [], INFRA_BLESSING: []}


def _blessings(input_dict: dict[str, list[Any]]) -> dict[int, Any]:
    """Returns blessings by model id, without models whose export was refused."""
    blessed = {
        blessing.get_int_custom_property(_BLESSED_MODEL_ID): blessing
        for blessing in input_dict[BLESSING]
        if blessing.get_int_custom_property(_BLESSED) == 1
    }
    # The last check counts, because the options of the check may have changed.
    checks = sorted(input_dict.get(INFRA_BLESSING, []), key=lambda check: check.id)
    served = {
        check.get_int_custom_property(CHECKED_MODEL_ID): check.get_int_custom_property(_BLESSED)
        for check in checks
    }
    return {model: found for model, found in blessed.items() if served.get(model, 1) == 1}


def _taken_back(store: Any, directory: str) -> range:
    """Returns the ids of the models that a rollback took back; empty if none is in effect.

    While the served version is a rollback, these are the ids above that of its model, up to that of
    the last model pushed. A model that was blessed after the rollback has a higher id.
    """
    record = newest_record(directory)
    if record.rolled_back_from is None or record.copy_of is None:
        return range(0)
    pushed = _pushed_models(store)
    served = pushed.get(record.copy_of)
    # Another root may push to the same folder.
    if served is None:
        return range(0)
    _LOG.info(
        "version %d was rolled back; the model of %d counts as the last blessed one",
        record.rolled_back_from, record.copy_of,
    )  # fmt: skip
    return range(served + 1, max(pushed.values()) + 1)


def _pushed_models(store: Any) -> dict[int, int]:
    """Returns the ids of the models that this root has pushed, by version."""
    versions = {
        artifact.id: artifact.custom_properties[_PUSHED_VERSION].string_value
        for artifact in store.get_artifacts_by_type(_PUSHED_MODEL)
    }
    pushes: dict[int, int] = {}
    for event in store.get_events_by_artifact_ids(list(versions)) if versions else []:
        number = versions[event.artifact_id]
        if event.type == proto.Event.OUTPUT and number.isdecimal():
            pushes[event.execution_id] = int(number)
    models: dict[int, int] = {}
    for event in store.get_events_by_execution_ids(list(pushes)) if pushes else []:
        if event.type == proto.Event.INPUT and event.path.steps[0].key == MODEL:
            models[pushes[event.execution_id]] = event.artifact_id
    return models


def _splits(settings: Any) -> Any:
    """Returns `input.splits` of a training; None if its settings do not have them."""
    try:
        return json.loads(settings["training"])["input"]["splits"]
    except (KeyError, TypeError, ValueError):
        return None


def _trainings(store: Any, models: Sequence[int]) -> dict[int, _Training]:
    """Returns how the models were trained, in the order of `models`."""
    produced: dict[int, list[int]] = {}
    for event in store.get_events_by_artifact_ids(models) if models else []:
        if event.type == proto.Event.OUTPUT:
            produced.setdefault(event.execution_id, []).append(event.artifact_id)
    executions = {
        execution.id: execution.custom_properties[_SETTINGS].string_value
        for execution in store.get_executions_by_id(list(produced))
        # Resolvers output models, too.
        if _SETTINGS in execution.custom_properties
    }
    inputs: dict[int, dict[str, list[int]]] = {execution: {} for execution in executions}
    for event in store.get_events_by_execution_ids(list(executions)) if executions else []:
        if event.type == proto.Event.INPUT:
            key = event.path.steps[0].key
            inputs[event.execution_id].setdefault(key, []).append(event.artifact_id)
    trained = {
        model: _Training(inputs[execution], json.loads(settings))
        for execution, settings in executions.items()
        for model in produced[execution]
    }
    return {model: trained[model] for model in models if model in trained}


def _fingerprints(store: Any, examples: Iterable[int]) -> set[str]:
    """Returns the fingerprints of Examples artifacts, or their ids if there is no fingerprint."""
    return {
        artifact.custom_properties[_FINGERPRINT].string_value or str(artifact.id)
        for artifact in store.get_artifacts_by_id(list(examples))
    }
