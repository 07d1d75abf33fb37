"""The Evaluator's verdict in numbers and words."""

from dataclasses import dataclass

import tensorflow_model_analysis as tfma

from pipeline.config import EvaluationConfig
from pipeline.evaluation import ACCURACY, LOG_LOSS
from pipeline.run_record import Step

_EXAMPLE_COUNT = "example_count"


@dataclass(frozen=True)
class ServingVerdict:
    """What ServingCheck found.

    Attributes:
        blessed: the export answers as the model in memory did, or was not checked.
        summary: one line; empty where nothing was checked.
        refusals: a line where it was refused.
    """

    blessed: bool = True
    summary: str = ""
    refusals: tuple[str, ...] = ()


def read_serving_check(step: Step | None) -> ServingVerdict:
    """Reads what ServingCheck wrote.

    Args:
        step: Its step of a run; None where it is switched off.

    Returns:
        The verdict.
    """
    if step is None:
        return ServingVerdict()
    (properties,) = step.properties["blessing"]
    summary = str(properties.get("summary", ""))
    if properties.get("blessed") == 1:
        return ServingVerdict(summary=summary)
    reason = f"the export does not serve as it was trained: {summary.removeprefix('REFUSED: ')}"
    return ServingVerdict(False, "", (reason,))


@dataclass(frozen=True)
class Evaluation:
    """What the Evaluator found.

    Attributes:
        blessed: every bound held.
        metrics: accuracy and log_loss (nats).
        test_images: how many images these were measured on.
        refusals: a line for each bound that did not hold.
    """

    blessed: bool
    metrics: dict[str, float]
    test_images: int
    refusals: list[str]


def read_evaluation(step: Step, bounds: EvaluationConfig) -> Evaluation:
    """Reads what the Evaluator wrote.

    Args:
        step: The Evaluator's step of a run.
        bounds: The configured bounds, to put them into words.

    Returns:
        The verdict.
    """
    folder = step.output("evaluation")
    overall = tfma.load_eval_result(folder).get_metrics_for_slice()
    values = {name: metric["doubleValue"] for name, metric in overall.items()}
    metrics = {"accuracy": values[ACCURACY], "log_loss": values[LOG_LOSS]}
    (properties,) = step.properties["blessing"]
    blessed = properties.get("blessed") == 1
    return Evaluation(
        blessed=blessed,
        metrics=metrics,
        test_images=int(values[_EXAMPLE_COUNT]),
        refusals=[] if blessed else _refusals(folder, bounds),
    )


def _refusals(folder: str, bounds: EvaluationConfig) -> list[str]:
    validation = tfma.load_validation_result(folder)
    lines = []
    for result in validation.metric_validations_per_slice:
        for failure in result.failures:
            name = failure.metric_key.name
            value = failure.metric_value.double_value.value
            if failure.metric_key.is_diff:
                lines.append(
                    f"{name} is {-value:.4f} below the last blessed model's; "
                    f"evaluation.max_accuracy_drop allows {bounds.max_accuracy_drop:.4f}"
                )
            else:
                lines.append(
                    f"{name} {value:.4f} is below evaluation.min_accuracy {bounds.min_accuracy:.4f}"
                )
    return lines or ["the evaluation is incomplete; see the log"]
