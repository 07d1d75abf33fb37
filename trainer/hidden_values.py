"""Validates values that may be secrets by mistake, such as a token in place of a variable's name.

Sections of the configuration use the validator; `config_faults.py` leaves such values out.
"""

import re
from typing import Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

HIDDEN_VALUE: Final = "hidden_value"
"""Kind of the errors whose value no message may show."""


def hidden_form(pattern: str, expected: str) -> AfterValidator:
    """Creates a validator like `of_form`, whose error does not show the text.

    Args:
        pattern: A regular expression.
        expected: What the error says is expected.
    """

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise PydanticCustomError(HIDDEN_VALUE, "expected {expected}", {"expected": expected})
        return text

    return AfterValidator(check)
