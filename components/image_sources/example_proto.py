"""Declares tf.Example for protobuf, so that records are parsed without TensorFlow.

The TFRecord and TFDS readers use it, so that their workers start without TensorFlow, and ingest
uses it for the records of duplicates.
Declaration: tensorflow/core/example/{example,feature}.proto.
"""

from functools import lru_cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE: Final = "vaeline"
_FIELD = descriptor_pb2.FieldDescriptorProto


@lru_cache(maxsize=1)
def example_class() -> Any:
    """Returns the message class, whose `features.feature` is a map from name to feature."""
    file = descriptor_pb2.FileDescriptorProto(
        name="vaeline/example.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, kind in (
        ("BytesList", _FIELD.TYPE_BYTES),
        ("FloatList", _FIELD.TYPE_FLOAT),
        ("Int64List", _FIELD.TYPE_INT64),
    ):
        _add(file.message_type.add(name=name), "value", 1, kind, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), 1):
        kind_of = "".join(word.capitalize() for word in name.split("_"))
        field = _add(feature, name, number, _FIELD.TYPE_MESSAGE, kind_of)
        field.oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _add(entry, "key", 1, _FIELD.TYPE_STRING)
    _add(entry, "value", 2, _FIELD.TYPE_MESSAGE, "Feature")
    _add(features, "feature", 1, _FIELD.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    _add(file.message_type.add(name="Example"), "features", 1, _FIELD.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


def _add(
    message: Any, name: str, number: int, kind: Any, type_name: str = "", *, repeated: bool = False
) -> Any:
    """Adds a field to a message descriptor."""
    field = message.field.add(name=name, number=number, type=kind)
    field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    if type_name:
        field.type_name = f".{_PACKAGE}.{type_name}"
    return field
