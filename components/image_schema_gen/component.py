"""Declares ImageSchemaGen and CuratedSchema, which the graph uses in place of TFX's components.

TFDV gives every string feature with at most 100 distinct values a domain of these values. In a set
of a hundred images that would be the names of all files: every test image would be an anomaly.
TFX's component passes no option to TFDV that would change this. TFX's ImportSchemaGen is identified
by the path of the schema alone: after an edit of the file the cache would give its old content.
"""

import posixpath
from typing import Final

import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.types import artifact_utils

from components.image_schema_gen.curated_schema import SCHEMA_FILE, read_schema
from components.tfx_api import tfx
from trainer.data import features
from trainer.storage import files

_STATISTICS_FILE: Final = "FeatureStats.pb"


@tfx.dsl.components.component
def ImageSchemaGen(  # noqa: N802 (a component's name is the class that TFX makes of it)
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Schema],
    code_digest: tfx.dsl.components.Parameter[str] = "",
) -> None:
    """Writes the schema that the statistics of the train split imply.

    Args:
        statistics: Output of StatisticsGen, with the train split.
        schema: Receives `schema.pbtxt`.
        code_digest: Digest of the code, so that a code change misses the cache.
    """
    del code_digest
    folder = artifact_utils.get_split_uri([statistics], features.TRAIN)
    found = tfdv.load_stats_binary(posixpath.join(folder, _STATISTICS_FILE))
    text = text_format.MessageToString(infer_image_schema(found))
    files.write_bytes(posixpath.join(schema.uri, SCHEMA_FILE), text.encode())


@tfx.dsl.components.component
def CuratedSchema(  # noqa: N802 (a component's name is the class that TFX makes of it)
    schema: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Schema],
    path: tfx.dsl.components.Parameter[str],
    content_digest: tfx.dsl.components.Parameter[str] = "",
    code_digest: tfx.dsl.components.Parameter[str] = "",
) -> None:
    """Copies a schema that people wrote.

    Args:
        schema: Receives `schema.pbtxt`.
        path: The file, or a folder with `schema.pbtxt`.
        content_digest: Digest of the schema, so that an edit misses the cache.
        code_digest: Digest of the code, so that a code change misses the cache.

    Raises:
        InputError: There is no such file, or it is no schema.
    """
    del content_digest, code_digest
    files.write_bytes(posixpath.join(schema.uri, SCHEMA_FILE), read_schema(path))


def infer_image_schema(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
) -> schema_pb2.Schema:
    """Infers types, presence and shapes of all features, and the domain of the label.

    File name, digest and format are no categories that later images must keep to: a PNG among
    JPEGs is decoded all the same. A label that training has not seen is a fault.

    Args:
        statistics: Statistics of the train split.
    """
    schema = tfdv.infer_schema(statistics, infer_feature_shape=True)
    kept = set()
    for feature in schema.feature:
        if feature.name == features.LABEL_TEXT:
            kept.add(feature.domain)
        elif feature.HasField("domain"):
            feature.ClearField("domain")
        elif feature.HasField("string_domain"):
            feature.ClearField("string_domain")
    domains = [domain for domain in schema.string_domain if domain.name in kept]
    del schema.string_domain[:]
    schema.string_domain.extend(domains)
    return schema
