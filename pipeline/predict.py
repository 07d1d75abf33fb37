"""Classifies individual image files with a pushed model or a model server."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from components.bulk_inference.model_card import model_limits, read_card
from components.image_checks import ImageFaultError, check, to_signature
from components.image_sources.config import LimitsConfig
from pipeline.console import captured_output
from serving.client import PredictClient
from serving.predictions import (
    Prediction,
    Predictor,
    ServingError,
    classify_each,
)
from trainer.errors import UserError
from trainer.quick_imports import quick_imports

_SECONDS = 60.0
_OF_MESSAGES: Final = LimitsConfig(max_bytes=1 << 30, max_pixels=1 << 30)
"""What gRPC's messages and OpenCV take; the model of a server has limits of its own."""
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]+://")


class PredictError(UserError, ValueError):
    """Reports options that do not go together."""


def predict_images(
    files: Sequence[str | Path],
    *,
    model: str | None,
    server: str | None,
    name: str,
    version: str | None,
) -> dict[str, Any]:
    """Classifies image files; a file that is not a usable image gets an error.

    Args:
        files: The image files.
        model: Folder of a model or of pushed versions, or `DIRECTORY@ALIAS`; either this or
            `server` is given.
        server: Address, as for `PredictClient`.
        name: The model's name on the server.
        version: Number or label of the model's version on the server; None for the newest.

    Returns:
        Predictions and errors in the order of the files, as JSON-compatible values.

    Raises:
        PredictError: Not exactly one of model and server is given, or a version without a server.
        InputError: There is no model in the folder.
        ServingError: The server is unavailable.
    """
    if (model is None) == (server is None):
        raise PredictError("give either --model DIR or --server URL")
    if server is None and version:
        raise PredictError(
            f"--version {version} chooses among the versions of a server; for pushed versions give"
            f" --model {model}/{version} if it is a number, or --model {model}@{version} if it is"
            " an alias"
        )
    errors: dict[int, str] = {}
    contents: dict[int, bytes] = {}
    place_of_model = read_card(str(model)).path if server is None else server
    limits = _OF_MESSAGES if server is not None else model_limits(place_of_model)
    for place, file in enumerate(files):
        try:
            contents[place] = _read(Path(file), limits)
        except OSError as error:
            errors[place] = _fault(str(file), error)
        except ImageFaultError as fault:
            errors[place] = str(fault)
    answers: dict[int, Prediction] = {}
    if contents:
        with contextlib.ExitStack() as stack:
            # TensorFlow, of which gRPC's messages are made too, prints many messages.
            stack.enter_context(captured_output(Path("/dev/null")))
            if server is not None:
                wanted = int(version) if version and version.isdecimal() else version
                predictor: Predictor = stack.enter_context(
                    PredictClient(server, model=name, version=wanted, timeout_secs=_SECONDS)
                )
            else:
                predictor = _load(place_of_model)
            try:
                found = classify_each(predictor, list(contents.values()))
            except ServingError as error:
                if not error.is_unknown_model:
                    raise
                hint = f"--name ({name}) and --version ({version or 'the newest'}) choose the model"
                raise ServingError(f"{error}; {hint}", error.code) from error
        for place, answer in zip(contents, found, strict=True):
            if isinstance(answer, ServingError):
                errors[place] = str(answer)
            else:
                answers[place] = answer
    return {
        "model": place_of_model,
        "failed": len(errors),
        "images": [
            {"file": str(file), "error": errors[place]}
            if place in errors
            else {"file": str(file), **_as_dict(answers[place])}
            for place, file in enumerate(files)
        ],
    }


def _read(file: Path, limits: LimitsConfig) -> bytes:
    """Reads an image file and validates its header before a model gets it.

    Raises:
        OSError: The file cannot be read.
        ImageFaultError: The file is not a usable image.
    """
    with file.open("rb") as opened:
        data = opened.read(limits.max_bytes + 1)
    header = check(data, limits)
    if isinstance(header, ImageFaultError):
        raise header
    return to_signature(data, header)


def _fault(file: str, error: OSError) -> str:
    """Says why a file can't be read, and what to do with what is no file."""
    if isinstance(error, IsADirectoryError):
        return "a folder; give its images, or label it with `vaeline classify`"
    if _ADDRESS.match(file):
        return "an address; download the image and give the file"
    return error.strerror or str(error)


def _load(folder: str) -> Predictor:
    with quick_imports():
        from serving.local_model import LocalModel

    return LocalModel(folder)


def _as_dict(answer: Prediction) -> dict[str, Any]:
    return {
        "label": answer.label,
        "probability": answer.probability,
        "top_k": [{"label": label, "probability": p} for label, p in answer.top_k],
        "outlier_score": answer.outlier_score,
        "verdict": answer.verdict,
    }
