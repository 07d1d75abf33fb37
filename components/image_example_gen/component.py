"""Declares the ImageExampleGen component, which turns archives of images into Examples.

It is the first step of the pipeline; `pipeline/graph.py` instantiates it.
"""

from collections.abc import Mapping
from typing import Any, Final

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.image_example_gen import driver, executor
from components.image_example_gen.executor import (
    CODE_DIGEST,
    FINGERPRINT,
    IMAGE_CONFIG,
    INPUT_CONFIG,
    PROCESSES,
    SPAN,
    THREADS,
)
from components.image_sources.config import InputConfig
from trainer.config import ImageConfig

EXAMPLES: Final = "examples"


class ImageExampleGenSpec(ComponentSpec):
    """Declares the inputs, outputs and parameters of ImageExampleGen."""

    PARAMETERS = {
        INPUT_CONFIG: ExecutionParameter(type=str),
        IMAGE_CONFIG: ExecutionParameter(type=str, optional=True),
        THREADS: ExecutionParameter(type=int, optional=True),
        PROCESSES: ExecutionParameter(type=int, optional=True),
        CODE_DIGEST: ExecutionParameter(type=str, optional=True),
        FINGERPRINT: ExecutionParameter(type=str, optional=True),
        SPAN: ExecutionParameter(type=int, optional=True),
    }
    INPUTS: dict[str, ChannelParameter] = {}
    OUTPUTS = {EXAMPLES: ChannelParameter(type=standard_artifacts.Examples)}


class ImageExampleGen(base_beam_component.BaseBeamComponent):
    """Reads images of any archive into an Examples artifact with five splits.

    The artifact holds uncompressed TFRecord files (images are compressed already), the account
    (`account.json`), the rejects and the duplicates (`rejects.parquet`, `duplicates.parquet`).
    Its driver resolves spans and computes the fingerprint of the inputs before TFX looks up its
    cache.

    Args:
        input_config: The input section, as a model, a mapping or JSON.
        image_config: The image section, for `input.store`; without it, images are stored at their
            own size.
        threads: Threads that check images, per process; by default they share the cores.
        processes: Processes that read and check; see `ingest`. 0 leaves all work to Beam.
        code_digest: Digest of the ingest code, so that a code change misses the cache.
        given: Exec properties that replace what the driver finds, for orchestrators without
            drivers: `input_config` (with spans resolved), `input_fingerprint`, `span`.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(
        self,
        input_config: InputConfig | Mapping[str, Any] | str,
        *,
        image_config: ImageConfig | None = None,
        threads: int | None = None,
        processes: int | None = None,
        code_digest: str | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(input_config, str):
            config = InputConfig.model_validate_json(input_config)
        else:
            config = InputConfig.model_validate(input_config)
        spec = ImageExampleGenSpec(
            **{
                INPUT_CONFIG: config.model_dump_json(),
                IMAGE_CONFIG: image_config and image_config.model_dump_json(),
                THREADS: threads,
                PROCESSES: processes,
                CODE_DIGEST: code_digest,
                EXAMPLES: types.Channel(type=standard_artifacts.Examples),
                **(given or {}),
            }
        )
        super().__init__(spec=spec)
