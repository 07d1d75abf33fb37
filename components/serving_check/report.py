"""Defines the report of a check: stages with their verdicts, as JSON and as a one-line summary."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from components.serving_check.config import ServingCheckConfig
from serving.tolerance import differences
from trainer.json_text import json_text
from trainer.model_card import ModelCard

_BFLOAT16_FACTOR: Final = 500.0
"""Factor by which bfloat16 rounds more coarsely than the arithmetic that the tolerance assumes."""


@dataclass(frozen=True)
class Tolerance:
    """Defines the largest allowed difference from an answer in memory.

    Attributes:
        configured: `serving_check.tolerance`.
        factor: The factor that accounts for the model's arithmetic.
        body_dtype: Keras dtype policy of the model's encoder and decoder.
    """

    configured: float
    factor: float = 1.0
    body_dtype: str = "float32"

    @property
    def limit(self) -> float:
        """Returns the largest allowed difference, `configured` times `factor`."""
        return self.configured * self.factor

    def __str__(self) -> str:
        scaled = f", times {self.factor:g} for {self.body_dtype}" if self.factor != 1 else ""
        return f"serving_check.tolerance is {self.configured:g}{scaled}"


def tolerance_of(card: ModelCard, config: ServingCheckConfig) -> Tolerance:
    """Returns the tolerance for a model's arithmetic, the same in every stage of the check."""
    factor = _BFLOAT16_FACTOR if "bfloat16" in card.body_dtype else 1.0
    return Tolerance(config.tolerance, factor, card.body_dtype)


@dataclass
class Stage:
    """Holds the outcome of one part of the check.

    Attributes:
        name: Description of the request.
        fault: Description of the fault; empty if there is none.
        difference: Largest difference from the answers in memory; 0 if nothing is compared.
    """

    name: str
    fault: str = ""
    difference: float = 0.0


@dataclass
class CheckReport:
    """Holds the outcome of the whole check.

    Attributes:
        stages: The stages in the order in which they ran.
        figures: load_secs, latency_ms by batch size, peak_memory_mib, signatures, images.
    """

    stages: list[Stage] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def refusals(self) -> list[str]:
        """Returns one line per failed stage; empty if the model may be pushed."""
        return [f"{stage.name}: {stage.fault}" for stage in self.stages if stage.fault]

    @property
    def blessed(self) -> bool:
        """Returns whether there is at least one stage and all stages passed."""
        return bool(self.stages) and not self.refusals

    def summary(self) -> str:
        """Returns the outcome as one line of text."""
        if not self.blessed:
            return f"REFUSED: {'; '.join(self.refusals) or 'nothing was checked'}"
        largest = max(stage.difference for stage in self.stages)
        parts = [f"{len(self.stages)} checks passed, largest difference {largest:.1e}"]
        latency = self.figures.get("latency_ms", {})
        if latency:
            parts.append(", ".join(f"{ms:.1f} ms for {size}" for size, ms in latency.items()))
        if "peak_memory_mib" in self.figures:
            parts.append(f"{self.figures['peak_memory_mib']:,.0f} MiB")
        return "; ".join(parts)

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return json_text(
            {"blessed": self.blessed, "summary": self.summary(), **asdict(self)}, indent=2
        )

    @classmethod
    def from_json(cls, text: str) -> "CheckReport":
        """Parses a report that `to_json` returned."""
        tree = json.loads(text)
        for stage in tree["stages"]:
            # JSON has no infinity, the difference between answers of different shapes.
            if stage["difference"] is None:
                stage["difference"] = math.inf
        return cls([Stage(**stage) for stage in tree["stages"]], tree["figures"])


def compare(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: Tolerance
) -> tuple[float, str]:
    """Compares answers with those in memory.

    Args:
        found: Arrays [n, ...] by output name; names that are not expected are ignored.
        expected: The expected arrays [n, ...] by output name.
        tolerance: Largest allowed difference; the fault states its components.

    Returns:
        The largest difference, and the fault with the output, the image and both numbers; the
        fault is empty if there is none.
    """
    largest, fault = 0.0, ""
    for name in expected.keys() & found.keys():
        ours, theirs = np.asarray(found[name]), np.asarray(expected[name])
        if ours.shape != theirs.shape:
            return float("inf"), f"{name} has the shape {ours.shape} instead of {theirs.shape}"
        differs = differences(ours, theirs)
        worst = float(differs.max(initial=0.0))
        if worst > tolerance.limit and worst > largest:
            place = np.unravel_index(differs.argmax(), differs.shape)
            fault = (
                f"{name} of golden image {place[0]} is {ours[place]:.6g} and was "
                f"{theirs[place]:.6g} in memory; {tolerance}"
            )
        largest = max(largest, worst)
    return largest, fault
