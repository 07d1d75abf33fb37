"""Defines the gate's verdict: one row per check, rendered as a text table and as JSON."""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from trainer.json_text import json_text

VERDICT_JSON: Final = "verdict.json"
VERDICT_TEXT: Final = "verdict.txt"
HEADER: Final = ("metric", "value", "bound", "verdict")


class Result(enum.StrEnum):
    """Lists the possible outcomes of one check."""

    PASSED = "passed"
    REFUSED = "REFUSED"
    UNDECIDED = "undecided"
    MEASURED = "-"
    """The value is only reported, because no bound is configured."""


@dataclass(frozen=True)
class Check:
    """Holds one check as a row of the verdict.

    Attributes:
        metric: Display name of the metric.
        value: The formatted value, with its interval if there is one.
        bound: The formatted bound; empty if the value is only reported.
        result: The outcome.
        blocks: Whether it prevents the blessing.
        reason: One line that says why it blocks.
    """

    metric: str
    value: str
    bound: str = ""
    result: Result = Result.MEASURED
    blocks: bool = False
    reason: str = ""

    def row(self) -> tuple[str, str, str, str]:
        """Returns the cells of `HEADER`."""
        return self.metric, self.value, self.bound, str(self.result)


@dataclass(frozen=True)
class Verdict:
    """Holds the decision whether a model is blessed, with its reasons.

    Attributes:
        checks: The rows.
        first_model: Whether there was no blessed model to compare with.
        measures: All metrics as JSON-compatible values.
    """

    checks: Sequence[Check]
    first_model: bool
    measures: Mapping[str, Any]

    @property
    def blessed(self) -> bool:
        """Returns whether no check blocks."""
        return not any(check.blocks for check in self.checks)

    @property
    def refusals(self) -> list[str]:
        """Returns one line for each check that blocks."""
        return [check.reason for check in self.checks if check.blocks]

    def headline(self) -> str:
        """Returns the verdict as one line."""
        if not self.blessed:
            return "REFUSED"
        if self.first_model:
            return "blessed as the first model, on absolute bounds only"
        return "blessed"

    def to_json(self) -> str:
        """Returns the verdict as JSON, with null for values that are not finite."""
        document = {
            "blessed": self.blessed,
            "first_model": self.first_model,
            "verdict": self.headline(),
            "refusals": self.refusals,
            "checks": [asdict(check) for check in self.checks],
            **self.measures,
        }
        return json_text(document, indent=2, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Returns the verdict as a plain-text table."""
        rows = [HEADER, *(check.row() for check in self.checks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        reasons = [f"refused because {reason}" for reason in self.refusals]
        return "\n".join([f"gate: {self.headline()}", "", *lines, *reasons]) + "\n"


def read_verdict(text: str) -> Verdict:
    """Parses a verdict that `to_json` returned."""
    document = json.loads(text)
    checks = [
        Check(**{**check, "result": Result(check["result"])}) for check in document.pop("checks")
    ]
    first_model = document.pop("first_model")
    for derived in ("blessed", "verdict", "refusals"):
        document.pop(derived)
    return Verdict(checks=checks, first_model=first_model, measures=document)
