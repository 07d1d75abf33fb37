"""ImageExampleGen, the component: images of any archive become an Examples artifact.

The head of the pipeline; `pipeline/graph.py` declares it.
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
    INPUT_CONFIG,
    PROCESSES,
    SPAN,
    THREADS,
)
from components.image_sources.config import InputConfig

EXAMPLES: Final = "examples"


class ImageExampleGenSpec(ComponentSpec):
    """What ImageExampleGen takes and gives."""

    PARAMETERS = {
        INPUT_CONFIG: ExecutionParameter(type=str),
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
    Its driver resolves spans and takes the inputs' fingerprint before TFX asks its cache.

    Args:
        input_config: The input section, or what makes one.
        threads: Threads that check images, per process; by default they share the cores.
        processes: Processes that read and check; see `ingest`. 0 leaves all to Beam.
        code_digest: Digest of the code that ingests: another digest, another cache entry.
        given: Exec properties that take the place of what the driver finds, for orchestrators
            that know no drivers: `input_config` (its spans resolved), `input_fingerprint`, `span`.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(
        self,
        input_config: InputConfig | Mapping[str, Any] | str,
        *,
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
                THREADS: threads,
                PROCESSES: processes,
                CODE_DIGEST: code_digest,
                EXAMPLES: types.Channel(type=standard_artifacts.Examples),
                **(given or {}),
            }
        )
        super().__init__(spec=spec)
