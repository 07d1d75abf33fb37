"""Runs a process that writes units: `python -m components.image_example_gen.worker DESCRIPTOR`.

`workers.py` starts it and sends configuration and units over the socket. The process sends parts
back; to find an image that crashes a process, it sends each image's name before checking it.
"""

import signal
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Final

from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.inspection import inspect
from components.image_example_gen.parts import output_explained
from components.image_example_gen.units import write_unit
from components.image_sources.base import WorkUnit
from components.image_sources.sources import ImageSource
from components.parent_process import end_with_parent
from trainer.errors import InputError

WRITE: Final = "write"
PROBE: Final = "probe"


def main() -> None:
    """Writes units, one after the other, until the parent closes the connection."""
    # Ctrl-C reaches all processes, but only the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    connection = Connection(int(sys.argv[1]))
    try:
        job, uri, threads = connection.recv()
        connection.send(None)
        while True:
            task, unit = connection.recv()
            if task == PROBE:
                for name in _probe(unit, job):
                    connection.send(name)
                connection.send(None)
                continue
            try:
                with output_explained(uri):
                    result: object = list(write_unit(unit, job, uri, threads))
            except InputError as error:
                result = error
            except Exception as error:
                # The parent raises the error again, which would lose this traceback.
                error.add_note(traceback.format_exc())
                result = error
            connection.send(result)
    except (EOFError, ConnectionError):
        return


def _probe(unit: WorkUnit, job: IngestJob) -> Iterator[str]:
    """Checks images one by one and yields each name before its check."""
    for batch in ImageSource(job.input).read(unit):
        for image in batch.slices(most=1, most_bytes=1):
            yield from image.keys
            inspect(image, job)


if __name__ == "__main__":
    main()
