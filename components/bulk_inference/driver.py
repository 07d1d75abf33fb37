"""BulkInference's driver: what must be known before TFX asks its cache.

A path is the same string after the archive behind it has changed, so its fingerprint becomes part
of the execution's properties. Kubeflow has no hook for such a driver; there the job finds the
images itself, and a changed archive needs another span or `cache: false`.
"""

from tfx.dsl.components.base import base_driver
from tfx.orchestration import data_types_utils, metadata
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.properties import BULK_CONFIG, INPUT_FINGERPRINT
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import resolve


class Driver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Resolves spans and takes the fingerprint of the archives, where the configuration names any.

    Args:
        mlmd_connection: TFX's store; not used.
    """

    def __init__(self, mlmd_connection: metadata.Metadata) -> None:
        base_driver.BaseDriver.__init__(self, mlmd_connection)
        portable_driver.BaseDriver.__init__(self, mlmd_connection)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Adds the fingerprint to the execution's properties.

        Raises:
            InputError: if a path does not exist or no span matches.
        """
        properties = dict(execution_info.exec_properties)
        config = BulkConfig.model_validate_json(properties[BULK_CONFIG])
        if config.input is not None:
            found = resolve(config.input).config
            properties[BULK_CONFIG] = config.model_copy(update={"input": found}).model_dump_json()
            properties.setdefault(INPUT_FINGERPRINT, fingerprint(found))
        result = driver_output_pb2.DriverOutput()
        for name, value in properties.items():
            if value is not None:
                data_types_utils.set_metadata_value(result.exec_properties[name], value)
        return result
