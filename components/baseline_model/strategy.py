"""The baseline: the latest blessed model other than the candidate; the graph's Resolver uses it.

TFX's own LatestBlessedModelStrategy returns the candidate itself when a finished pipeline is run
again unchanged: the Evaluator then gets an input that it did not have the first time, misses the
cache, and compares a model with itself.
"""

from typing import Any

from tfx.dsl.components.common import resolver

CANDIDATE = "candidate"
MODEL = "model"
BLESSING = "model_blessing"

# Custom properties that TFX's Evaluator sets on a blessing.
_BLESSED_MODEL_ID = "current_model_id"
_BLESSED = "blessed"


class LatestOtherBlessedModelStrategy(resolver.ResolverStrategy):
    """Resolves the latest blessed model that is not the candidate, with its blessing.

    The inputs are named `candidate` (the trained model), `model` and `model_blessing` (all of the
    pipeline's).
    """

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Picks the baseline; both lists are empty where there is none."""
        candidates = {artifact.id for artifact in input_dict[CANDIDATE]}
        blessings = {
            blessing.get_int_custom_property(_BLESSED_MODEL_ID): blessing
            for blessing in input_dict[BLESSING]
            if blessing.get_int_custom_property(_BLESSED) == 1
        }
        eligible = [
            model
            for model in input_dict[MODEL]
            if model.id in blessings and model.id not in candidates
        ]
        baseline = max(eligible, key=lambda model: model.id, default=None)
        return {
            CANDIDATE: input_dict[CANDIDATE],
            MODEL: [baseline] if baseline else [],
            BLESSING: [blessings[baseline.id]] if baseline else [],
        }
