"""ImageExampleGen's driver: what must be known before TFX asks its cache.

Runs on every local run, in well under a second for zips. Kubeflow has a hook for such a driver
only for TFX's own FileBasedExampleGen; there the executor resolves the spans instead.
"""

from tfx.dsl.components.base import base_driver
from tfx.orchestration import data_types_utils, metadata
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2

from components.image_example_gen.properties import FINGERPRINT, INPUT_CONFIG, SPAN, VERSION
from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import resolve


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Resolves spans and takes the fingerprint of the inputs.

    Args:
        mlmd_connection: TFX's store; not used.
    """

    def __init__(self, mlmd_connection: metadata.Metadata) -> None:
        base_driver.BaseDriver.__init__(self, mlmd_connection)
        portable_driver.BaseDriver.__init__(self, mlmd_connection)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Adds fingerprint, span and version to the execution's properties.

        Raises:
            InputError: if a path does not exist or no span matches.
        """
        config = InputConfig.model_validate_json(execution_info.exec_properties[INPUT_CONFIG])
        resolved = resolve(config)
        properties = {
            **execution_info.exec_properties,
            INPUT_CONFIG: resolved.config.model_dump_json(),
            FINGERPRINT: fingerprint(resolved.config),
            SPAN: resolved.span,
            VERSION: resolved.version,
        }
        result = driver_output_pb2.DriverOutput()
        for name, value in properties.items():
            if value is not None:
                data_types_utils.set_metadata_value(result.exec_properties[name], value)
        return result
