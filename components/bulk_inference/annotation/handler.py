"""Loads the pushed model once per worker process and runs it in batches from several threads.

`unit.py` calls it; it is the only module of the bulk job that imports TensorFlow.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np

from components.bulk_inference.annotation.decoding import Route, route_of
from components.image_checks import ImageHeader, model_pixels
from serving import names
from serving.loading import load_saved_model
from serving.tolerance import same_answers
from trainer.model_card import ModelCard
from trainer.quick_imports import quick_imports

_LOG = logging.getLogger(__name__)

_ROWS: Final = 64
"""Multiple to which model calls are padded; smaller ones are padded to a power of two, so that the
graph sees few shapes. The exact bits of a row depend on the shape of its call and on its position,
because kernels for other shapes round in another order. A unit is always divided into the same
calls, so on one machine a resumed job reproduces the table of an uninterrupted one bit for bit; all
other results agree within `serving.tolerance`."""

_ALWAYS: Final = (names.LABEL_INDEX, names.PROBABILITY, names.PROBABILITIES, names.EMBEDDING)
"""Outputs of the encoder and the classifier, which checks of answers and the drift report read."""

_ON_DEMAND: Final = (
    names.TOP_K_LABELS,
    names.TOP_K_PROBABILITIES,
    names.ELBO,
    names.RECONSTRUCTION_ERROR,
    names.OUTLIER_SCORE,
    names.VERDICT,
)
"""Outputs for columns alone; most of them need the decoder and the likelihood."""

Outputs = dict[str, np.ndarray]


class Annotator:
    """Runs a loaded model on batches of images.

    It is thread-safe: calls run concurrently, each on one core, which for batches is faster than
    one call spread over all cores.

    Args:
        card: The model to load.
        workers: Number of cores that all calls together may use.
        max_images: Initial largest number of images per call.
        columns: Names of the table's columns. The parts of the model that none of them needs do
            not run, such as the decoder where no column rests on the reconstruction.
    """

    def __init__(
        self, card: ModelCard, *, workers: int, max_images: int, columns: Sequence[str]
    ) -> None:
        self.card = card
        self._lock = threading.RLock()
        self._limit = max_images
        self._agreements: dict[Route, bool] = {}
        self._signatures = _load(card.path, workers, needed_outputs(columns))
        self._image = card.image_config
        tiny_image = cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()
        self._filler = np.array([tiny_image], object)

    @property
    def batch_limit(self) -> int:
        """Returns the current limit on images per call, halved each time memory ran out."""
        return self._limit

    def annotate_pixels(self, pixels: np.ndarray) -> tuple[Outputs, dict[int, str]]:
        """Runs the model on decoded images.

        Args:
            pixels: uint8 [n, height, width, channels], of the model's size and channels.

        Returns:
            Outputs [n, ...] by name, and by position the faults of images that the model cannot
            process; the outputs of these images are undefined.
        """
        return self._in_parts(names.ANNOTATE_PIXELS, pixels)

    def annotate_bytes(self, files: Sequence[bytes]) -> tuple[Outputs, dict[int, str]]:
        """Runs the model on image files, decoded in the graph; returns as `annotate_pixels`."""
        array = np.empty(len(files), object)
        array[:] = files
        return self._in_parts(names.ANNOTATE, array)

    def decodes_here(self, header: ImageHeader) -> bool:
        """Returns whether an image may be decoded outside the model's graph.

        It may where the outputs then agree with those of the served signature, which is tried once
        per process on a file of the same kind.

        Args:
            header: The header of the file.
        """
        route = route_of(header, self._image)
        if route.is_certain:
            return True
        with self._lock:
            if route not in self._agreements:
                file, probed = route.probe(self._image)
                served, _ = self.annotate_bytes([file])
                pixels = model_pixels(file, probed, self._image)
                ours, _ = self.annotate_pixels(pixels[np.newaxis])
                self._agreements[route] = bool(served) and same_answers(ours, served)
                if not self._agreements[route]:
                    _LOG.info("%s is decoded by the model's own graph, which differs", route)
            return self._agreements[route]

    def _call(self, signature: str, values: np.ndarray) -> Outputs:
        count = len(values)
        missing = _padded(count, self._limit) - count
        if missing:
            filler = self._filler if values.ndim == 1 else values[-1:]
            values = np.concatenate([values, np.repeat(filler, missing, axis=0)])
        returned = self._signatures[signature](values)
        return {name: value.numpy()[:count] for name, value in returned.items()}

    def _in_parts(self, signature: str, values: np.ndarray) -> tuple[Outputs, dict[int, str]]:
        """Calls a signature on as many images at a time as memory takes; returns as callers do."""
        import tensorflow as tf

        count = len(values)
        parts: list[Outputs] = []
        faults: dict[int, str] = {}
        todo = [(0, count)] if count else []
        while todo:
            begin, end = todo.pop()
            limit = self._limit
            if end - begin > limit:
                todo.extend((at, min(at + limit, end)) for at in reversed(range(begin, end, limit)))
                continue
            try:
                part = self._call(signature, values[begin:end])
            except (tf.errors.ResourceExhaustedError, MemoryError) as error:
                if end - begin == 1:
                    faults[begin] = f"memory ran out on this image alone: {_first_line(error)}"
                    parts.append({})
                    continue
                self._halve(end - begin)
                todo.append((begin, end))
            except tf.errors.OpError as error:
                if end - begin == 1:
                    faults[begin] = _first_line(error)
                    parts.append({})
                    continue
                middle = (begin + end) // 2
                todo.extend([(middle, end), (begin, middle)])
            else:
                faults.update(_not_finite(part, begin))
                parts.append(part)
        return _join(parts), faults

    def _halve(self, size: int) -> None:
        with self._lock:
            half = size // 2
            half -= half % _ROWS if half > _ROWS else 0
            if half < self._limit:
                self._limit = max(1, half)
                _LOG.warning("out of memory at %d images a call; now %d", size, self._limit)


_LOADED: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Annotator] = {}
_LOADING: Final = threading.Lock()


def shared_annotator(
    card: ModelCard, *, workers: int, max_images: int, columns: Sequence[str]
) -> Annotator:
    """Returns the process's only annotator of a model, which the first call loads.

    Args:
        card: The model to load.
        workers: Number of cores that all calls together may use.
        max_images: Initial largest number of images per call.
        columns: Names of the table's columns.
    """
    identity = (card.path, tuple(card.answer_digests.values()), needed_outputs(columns))
    with _LOADING:
        if identity not in _LOADED:
            # Memory holds one model at a time, so loading another one releases the first.
            _LOADED.clear()
            _LOADED[identity] = Annotator(
                card, workers=workers, max_images=max_images, columns=columns
            )
        return _LOADED[identity]


def needed_outputs(columns: Sequence[str]) -> tuple[str, ...]:
    """Returns the model's outputs that a table with these columns needs."""
    # Columns that come from the model have the names of their outputs.
    return (*_ALWAYS, *(name for name in _ON_DEMAND if name in columns))


def _load(path: str, workers: int, outputs: tuple[str, ...]) -> "dict[str, _Signature]":
    with quick_imports():
        import tensorflow as tf

    try:
        # Each call uses one core and several calls run concurrently: no thread waits for another
        # inside an op, and OpenCV's decoding has a core of its own.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(workers)
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
    except RuntimeError:
        # TensorFlow is already running in this process, for example in a pipeline's component,
        # and its threads can no longer be changed.
        _LOG.debug("TensorFlow's threads are already set")
    loaded = load_saved_model(path)
    return {
        name: _Signature(loaded, name, outputs) for name in (names.ANNOTATE, names.ANNOTATE_PIXELS)
    }


class _Signature:
    """Computes some outputs of a loaded model's signature, which has one input.

    TensorFlow removes from a function's graph what its outputs do not need; checks of the input
    stay, because they have side effects.
    """

    def __init__(self, loaded: Any, name: str, outputs: tuple[str, ...]) -> None:
        import tensorflow as tf

        # A signature alone does not keep the loaded object's variables alive.
        self._owner = loaded
        signature = loaded.signatures[name]
        ((argument, spec),) = signature.structured_input_signature[1].items()

        def chosen(values: Any) -> dict[str, Any]:
            answer = signature(**{argument: values})
            return {output: answer[output] for output in outputs}

        is_whole = set(outputs) == {*_ALWAYS, *_ON_DEMAND}
        self._function = (
            chosen if is_whole else tf.function(chosen, input_signature=[spec], autograph=False)
        )

    def __call__(self, values: np.ndarray) -> dict[str, Any]:
        import tensorflow as tf

        return dict(self._function(tf.constant(values)))


def _padded(count: int, limit: int) -> int:
    """Returns the number of rows of a call for `count` images, of which memory takes `limit`."""
    if count >= _ROWS:
        return count + -count % _ROWS
    rows = 1 << (count - 1).bit_length()
    return rows if rows <= limit else count


def _first_line(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return message.strip().splitlines()[0][:200]


def _not_finite(part: Outputs, begin: int) -> dict[int, str]:
    finite = np.isfinite(part[names.PROBABILITY]) & np.isfinite(part[names.EMBEDDING]).all(axis=1)
    return {begin + int(at): "the model's answer is not a number" for at in np.flatnonzero(~finite)}


def _join(parts: list[Outputs]) -> Outputs:
    """Concatenates parts in order; a part without outputs represents one failed image."""
    if len(parts) == 1 and parts[0]:
        return parts[0]
    sample = next((part for part in parts if part), None)
    if sample is None:
        return {}
    blank = {
        name: np.full((1, *value.shape[1:]), b"", object)
        if value.dtype == object
        else np.zeros((1, *value.shape[1:]), value.dtype)
        for name, value in sample.items()
    }
    return {name: np.concatenate([(part or blank)[name] for part in parts]) for name in sample}
