"""Implements ImageExampleGen's driver, which inspects the inputs before TFX looks up its cache.

It runs in every local run and takes well under a second for zips. Kubeflow supports such a driver
only for TFX's own FileBasedExampleGen; there the executor resolves the spans instead.
"""

import abc
from collections.abc import Mapping
from typing import Any

from tfx.dsl.components.base import base_driver
from tfx.orchestration import data_types_utils, metadata
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2

from components.image_example_gen.executor import FINGERPRINT, INPUT_CONFIG, SPAN, VERSION
from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import resolve


class InputDriver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Adds properties to the execution that only the inputs themselves reveal.

    Args:
        mlmd_connection: TFX's metadata store; not used.
    """

    def __init__(self, mlmd_connection: metadata.Metadata) -> None:
        base_driver.BaseDriver.__init__(self, mlmd_connection)
        portable_driver.BaseDriver.__init__(self, mlmd_connection)

    @abc.abstractmethod
    def look(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the properties to add or to replace.

        Args:
            given: The properties that the pipeline declares.

        Raises:
            InputError: if a path does not exist or no span matches.
        """

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Adds the result of `look` to the execution's properties.

        Raises:
            InputError: as for `look`.
        """
        given = execution_info.exec_properties
        result = driver_output_pb2.DriverOutput()
        for name, value in {**given, **self.look(given)}.items():
            if value is not None:
                data_types_utils.set_metadata_value(result.exec_properties[name], value)
        return result


class Driver(InputDriver):
    """Resolves spans and computes the fingerprint of the inputs."""

    def look(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns fingerprint, span and version; see the base class."""
        resolved = resolve(InputConfig.model_validate_json(given[INPUT_CONFIG]))
        return {
            INPUT_CONFIG: resolved.config.model_dump_json(),
            FINGERPRINT: fingerprint(resolved.config),
            SPAN: resolved.span,
            VERSION: resolved.version,
        }
