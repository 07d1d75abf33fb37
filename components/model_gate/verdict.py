"""The gate's answer: a row for each check, the table for people, the JSON for programs."""

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

VERDICT_JSON: Final = "verdict.json"
VERDICT_TEXT: Final = "verdict.txt"
HEADER: Final = ("metric", "value", "bound", "verdict")


class Result(enum.StrEnum):
    """What one check came to."""

    PASSED = "passed"
    REFUSED = "REFUSED"
    UNDECIDED = "undecided"
    MEASURED = "-"
    """No bound is configured."""


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        metric: what was measured, in words.
        value: the value, with its interval where there is one, in words.
        bound: what it is held to; empty where it is only reported.
        result: what came of it.
        blocks: it keeps the model from being blessed.
        reason: one line that says why it blocks.
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
    """Whether a model is blessed, and why.

    Attributes:
        checks: the rows.
        first_model: there was no blessed model to compare with.
        measures: everything measured, in a form for JSON.
    """

    checks: Sequence[Check]
    first_model: bool
    measures: Mapping[str, Any]

    @property
    def blessed(self) -> bool:
        """No check blocks."""
        return not any(check.blocks for check in self.checks)

    @property
    def refusals(self) -> list[str]:
        """A line for each check that blocks."""
        return [check.reason for check in self.checks if check.blocks]

    def headline(self) -> str:
        """Says the verdict in a line."""
        if not self.blessed:
            return "REFUSED"
        if self.first_model:
            return "blessed as the first model, on absolute bounds only"
        return "blessed"

    def to_json(self) -> str:
        """Writes everything; values that are not finite become null."""
        document = {
            "blessed": self.blessed,
            "first_model": self.first_model,
            "verdict": self.headline(),
            "refusals": self.refusals,
            "checks": [asdict(check) for check in self.checks],
            **self.measures,
        }
        return json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Writes the table as plain text."""
        rows = [HEADER, *(check.row() for check in self.checks)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        reasons = [f"refused because {reason}" for reason in self.refusals]
        return "\n".join([f"gate: {self.headline()}", "", *lines, *reasons]) + "\n"


def read_verdict(text: str) -> Verdict:
    """Reads what `to_json` wrote."""
    document = json.loads(text)
    checks = [
        Check(**{**check, "result": Result(check["result"])}) for check in document.pop("checks")
    ]
    first_model = document.pop("first_model")
    for derived in ("blessed", "verdict", "refusals"):
        document.pop(derived)
    return Verdict(checks=checks, first_model=first_model, measures=document)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
