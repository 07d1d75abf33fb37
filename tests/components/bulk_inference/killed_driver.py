"""Runs a job, and then the same job again and again until a kill: the program of `killed_jobs.py`.

`python -m tests.components.bulk_inference.killed_driver ARCHIVE MODEL FOLDER MOMENTS ENGINE`
"""

import os
import signal
import sys
import time

from trainer.quick_imports import quick_imports

with quick_imports():
    import apache_beam  # noqa: F401
    import cv2  # noqa: F401
    import keras  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    import tensorflow  # noqa: F401

    from components.bulk_inference.annotation import transforms, unit  # noqa: F401
    from components.bulk_inference.config import BulkConfig, EngineConfig
    from components.bulk_inference.job import run_bulk
    from components.bulk_inference.running import engines  # noqa: F401
    from components.image_sources.config import InputConfig, UnitsConfig


def main(archive: str, model: str, folder: str, count: str, engine: str) -> None:
    """Leaves the output of an undisturbed job in `whole`, those of the others in `killed*`."""
    units = UnitsConfig(members=64, batch=32)
    inputs = InputConfig.model_validate({"paths": archive, "units": units})

    def start(output: str) -> int:
        # Forked before TensorFlow has done anything but be imported: each start takes no imports.
        child = os.fork()
        if child == 0:
            run_bulk(
                BulkConfig(
                    input=inputs,
                    engine=EngineConfig.model_validate_json(engine),
                    model=model,
                    output=os.path.join(folder, output),
                )
            )
            os._exit(0)
        return child

    begin = time.monotonic()
    assert os.waitpid(start("whole"), 0)[1] == 0
    seconds = time.monotonic() - begin
    moments = int(count)
    for moment in range(moments):
        child = start("killed")
        # 5 has no divisor in common with their number, so the moments come in no order.
        time.sleep(seconds * (5 * moment % moments + 0.5) / moments)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if os.path.exists(os.path.join(folder, "killed", "_manifest.json")):
            # Done before the kill: the next moments start on an empty output.
            os.rename(os.path.join(folder, "killed"), os.path.join(folder, f"killed_{moment}"))
    assert os.waitpid(start("killed"), 0)[1] == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
