"""The name of the logger that speaks to the person who watches a run.

Project code logs to it a line at a time; the local runner shows its latest line beside the step.
"""

from typing import Final

PROGRESS_LOGGER: Final = "vaeline.progress"
