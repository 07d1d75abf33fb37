"""Exports a trained model as the SavedModel that TF Serving, TFMA and the bulk jobs load.

`pipeline/run_fn.py` calls it at the end of training.
"""

import os
import posixpath
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from serving import names
from serving.golden import answer_in_memory, write_golden
from serving.input_validation import MAX_PIXELS
from serving.signatures import create_signatures
from serving.warmup import write_warm_up
from trainer.data.preprocessing import RecordTransform
from trainer.model.vae_classifier import VaeClassifier
from trainer.model.weights import weight_names
from trainer.model_card import EXPORTED_CARD, ModelCard, format_card
from trainer.quality.held_out import HELD_OUT_FILE, HeldOutAnswers, write_held_out
from trainer.quality.importance import SampledBound
from trainer.storage import files


def export_model(
    folder: str | os.PathLike[str],
    *,
    model: VaeClassifier,
    transform: RecordTransform,
    card: ModelCard,
    config_yaml: str,
    golden: Iterable[bytes] = (),
    held_out: HeldOutAnswers | None = None,
    max_pixels: int = MAX_PIXELS,
    sampled_bound: SampledBound | None = None,
) -> None:
    """Exports a model with `keras.export.ExportArchive`.

    TF Serving's session-style loader cannot read a plain `tf.saved_model.save` of a Keras 3 model
    ("Could not find variable"); it can read this form.

    Args:
        folder: Folder of the SavedModel; created here.
        model: The trained and calibrated model.
        transform: The Transform graph that the model was trained with.
        card: Facts about the training; the export adds those about the model itself.
        config_yaml: The configuration of the training, for `assets.extra/config.yaml`.
        golden: Image files. The first ones are stored in `assets.extra/golden.npz` with the outputs
            of the model in memory.
        held_out: The model's answers on the calibration split, for `assets.extra/held_out.npz`.
        max_pixels: Height times width of the largest image file that the signatures decode.
        sampled_bound: The importance-weighted bound that `classify_examples` returns, if any.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    # Otherwise the table of the label vocabulary would be missing from the export.
    archive.track(transform.resources)
    signatures = create_signatures(
        model, transform, max_pixels=max_pixels, sampled_bound=sampled_bound
    )
    for signature in signatures:
        archive.add_endpoint(
            signature.name, _as_written(signature.function), input_signature=signature.specs
        )
    archive.write_out(str(folder), verbose=False)

    folder = os.fspath(folder)
    extra = posixpath.join(folder, names.EXTRA_ASSETS)
    described = card.model_copy(
        update={
            "classes": tuple(transform.classes),
            "image_shape": model.image_shape,
            "image_fit": transform.image.fit,
            "embedding_size": model.config.latent_size,
            "body_dtype": model.body_dtype,
            # `track` saves the variables in this order.
            "weights": tuple(weight_names(model.weights)),
        }
    )
    files.write_bytes(posixpath.join(folder, EXPORTED_CARD), format_card(described).encode())
    files.write_bytes(posixpath.join(extra, names.CONFIG), f"{config_yaml}\n".encode())
    answers = answer_in_memory(model, transform, golden, max_pixels=max_pixels)
    write_golden(answers, posixpath.join(extra, names.GOLDEN))
    if held_out is not None:
        write_held_out(held_out, posixpath.join(folder, HELD_OUT_FILE))
    write_warm_up(posixpath.join(extra, names.WARM_UP), model.image_shape)


def _as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """Disables AutoGraph, which nothing here needs; rewriting TFT's layer would take seconds."""
    return tf.autograph.experimental.do_not_convert(function)
