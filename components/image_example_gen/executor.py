"""Implements ImageExampleGen's executor, which unpacks TFX's arguments and calls `ingest`."""

from typing import Any, Final

from tfx import types
from tfx.components.example_gen import utils
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from components.image_example_gen.ingest import ingest
from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.spans import resolve
from trainer.config import ImageConfig
from trainer.data import features

INPUT_CONFIG: Final = "input_config"
"""JSON of the input section; the driver replaces its spans by the paths of those spans."""
IMAGE_CONFIG: Final = "image_config"
"""JSON of the image section: what the model sees."""
THREADS: Final = "threads"
PROCESSES: Final = "processes"
CODE_DIGEST: Final = "code_digest"

# TFX's span resolvers read these names from the artifact.
FINGERPRINT: Final = "input_fingerprint"
SPAN: Final = "span"
VERSION: Final = "version"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Writes the Examples artifact."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Ingests the images.

        Args:
            input_dict: Empty.
            output_dict: `examples`: one Examples artifact.
            exec_properties: The properties named by the constants of this module.

        Raises:
            InputError: if the input cannot be used or the output cannot be written.
        """
        artifact = artifact_utils.get_single_instance(output_dict["examples"])
        # Without a driver the spans are still patterns; resolved paths pass through unchanged.
        resolved = resolve(InputConfig.model_validate_json(exec_properties[INPUT_CONFIG]))
        image = exec_properties.get(IMAGE_CONFIG)
        digest = exec_properties.get(FINGERPRINT) or fingerprint(resolved.config)
        # The properties keep the paths as given: a root that moves with its images stays cached.
        account = ingest(
            resolved.config.absolute(),
            artifact.uri,
            self._make_beam_pipeline,
            threads=exec_properties.get(THREADS),
            processes=exec_properties.get(PROCESSES),
            image=ImageConfig.model_validate_json(image) if image else None,
        )
        artifact.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
        artifact.span = int(exec_properties.get(SPAN) or resolved.span)
        version = exec_properties.get(VERSION) or resolved.version
        if version is not None:
            artifact.set_int_custom_property(utils.VERSION_PROPERTY_NAME, int(version))
        artifact.set_string_custom_property(utils.FINGERPRINT_PROPERTY_NAME, digest)
        artifact.set_int_custom_property("images", account.examples.total())
        examples_utils.set_payload_format(artifact, example_gen_pb2.FORMAT_TF_EXAMPLE)
        # "gzip" is TFX's only TFRecord format; its readers detect compression by the suffix.
        examples_utils.set_file_format(artifact, "tfrecords_gzip")
