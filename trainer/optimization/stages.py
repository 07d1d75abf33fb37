"""Describes what the stages of a training share: images, devices, folder, stop and progress.

`train.py` runs one stage or several: pretraining, teachers and random starts come before the model
itself, each with a loop and a folder of its own.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from trainer.data.input_pipeline import ImageSet
from trainer.optimization.callbacks import ProgressFn, TrainingProgress
from trainer.optimization.checkpoints import CHECKPOINTS
from trainer.optimization.preemption import StopRequest


@dataclasses.dataclass(frozen=True)
class TrainingStage:
    """What the loop of one stage works with.

    Attributes:
        splits: images by split name; every image of `train` has a label, unless labels are unused.
        strategy: the distribution strategy.
        workdir: folder for checkpoints, history and events.
        stop: asked between calls whether to stop.
        progress: called after every call and every evaluation.
    """

    splits: Mapping[str, ImageSet]
    strategy: Any
    workdir: str
    stop: StopRequest
    progress: ProgressFn

    def earlier(self, folder: str, title: str = "") -> "TrainingStage":
        """Returns a stage that comes before this one.

        Args:
            folder: name of its folder, which lies beside the checkpoints of this stage, so that
                it is never published.
            title: names the stage in its progress; empty to report as this one does.
        """

        def report(event: TrainingProgress) -> None:
            self.progress(dataclasses.replace(event, stage=title))

        return dataclasses.replace(
            self,
            workdir=os.path.join(self.workdir, CHECKPOINTS, folder),
            progress=report if title else self.progress,
        )
