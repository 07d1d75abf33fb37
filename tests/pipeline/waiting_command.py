"""A command that waits for a signal, in the ways in which commands of `vaeline` do.

`python -m tests.pipeline.waiting_command KIND`.
"""

import time
from typing import Any

import apache_beam as beam
import click

from components.bulk_inference.running.interruption import workers_end_with_us
from pipeline.cli.command import common
from tests.limits import HANG_SECS


def wait(element: Any) -> None:
    """Waits, also as a step of Beam."""
    del element
    print("at work", flush=True)
    time.sleep(HANG_SECS)


@click.command()
@click.argument("kind")
@common
def main(terminal: Any, kind: str) -> int:
    """Waits as `kind` says."""
    del terminal
    if kind == "sleep":
        wait(None)
    elif kind == "wrapped":
        try:
            wait(None)
        except KeyboardInterrupt as error:
            raise RuntimeError("KeyboardInterrupt") from error
    elif kind == "workers":
        with workers_end_with_us():
            wait(None)
    else:
        options = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]
        with beam.Pipeline(argv=options) as pipeline:
            _ = pipeline | beam.Create([1]) | beam.Map(wait)
    return 0


if __name__ == "__main__":
    main()
