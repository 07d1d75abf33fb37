"""Writes TF Serving's model config file for a folder of versions, with aliases as version labels.

`vaeline models serving-config` calls it.
"""

import os

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from components.model_push.versions import VersionStore
from trainer.storage import files


def model_server_config(store: VersionStore, *, name: str = "vaeline", base_path: str = "") -> str:
    """Returns the content of `--model_config_file`.

    Without aliases the server follows the newest version. With aliases it serves the versions that
    they name and the newest one, because a label needs a version that is loaded.

    Args:
        store: The store of versions.
        name: The model's name on the server.
        base_path: Where the server finds the store; if empty, at the same place as this process.

    Raises:
        InputError: if an alias names a version that is not there.
    """
    place = store.address if files.is_remote(store.address) else os.path.abspath(store.address)
    config = model_server_config_pb2.ModelServerConfig()
    entry = config.model_config_list.config.add(
        name=name, base_path=base_path or place, model_platform="tensorflow"
    )
    for label, alias in store.aliases().items():
        entry.version_labels[label] = store.find(alias.version).number
    if entry.version_labels:
        newest = [version.number for version in store.complete()[-1:]]
        entry.model_version_policy.specific.versions.extend(
            sorted({*entry.version_labels.values(), *newest})
        )
    else:
        entry.model_version_policy.latest.num_versions = 1
    return str(text_format.MessageToString(config))
