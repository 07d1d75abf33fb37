"""Loads a SavedModel into this process, and says in one line what is wrong with one that fails."""

from typing import Any

from serving.predictions import one_line
from trainer.errors import InputError
from trainer.storage import files


def load_saved_model(folder: str) -> Any:
    """Loads the SavedModel of a folder, which is copied first if it is in a store.

    Args:
        folder: The folder that holds `saved_model.pb`.

    Returns:
        What `tf.saved_model.load` returns.

    Raises:
        InputError: A file of the model is missing or damaged.
    """
    import tensorflow as tf

    try:
        with files.local_copy(folder) as local:
            return tf.saved_model.load(local)
    # A short file of variables is an IndexError.
    except (tf.errors.OpError, OSError, RuntimeError, ValueError, IndexError) as error:
        # TensorFlow guesses at another device behind the name of a file that is missing.
        reason = one_line(str(error).partition("\n You may be trying to load")[0]).rstrip(".")
        raise InputError(
            f"{folder}: the model does not load: {reason}; push it again, or copy its whole folder"
            " again, or name another version"
        ) from error
