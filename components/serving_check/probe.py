"""The check itself, which `process.py` runs in a process of its own."""

import re
import statistics
import struct
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import tensorflow as tf

from components.bulk_inference.model_card import read_card
from components.serving_check.bulk_path import answer_as_bulk_job
from components.serving_check.config import ServingCheckConfig
from components.serving_check.memory import peak_memory_mib
from components.serving_check.report import CheckReport, Stage, Tolerance, compare, tolerance_of
from components.serving_check.requests import Request, build_request
from components.serving_check.session import SessionModel
from serving import names
from serving.golden import GoldenSet, read_golden

_BOMB_SIDE = 30_000
_MOST_GROWTH_MIB = 256
_ASSERTED: Final = re.compile(r"assertion failed: \[(.*?)\]", re.DOTALL)


def check_in_session(
    model: SessionModel,
    golden: GoldenSet,
    config: ServingCheckConfig,
    tolerance: Tolerance,
    label: str,
) -> list[Stage]:
    """Calls every signature at every batch size.

    Returns:
        One stage per signature.
    """
    stages = {name: Stage(f"signature {name} in a TF1 session") for name in sorted(model.inputs)}
    for size in config.batch_sizes:
        requests = {}
        for name, stage in stages.items():
            try:
                requests[name] = build_request(name, model.inputs[name], golden, size, label=label)
            except ValueError as error:
                stage.fault = stage.fault or f"no answer to {size} images: {first_line(error)}"
        for name, found in _answers(model, requests).items():
            stage = stages[name]
            if isinstance(found, tf.errors.OpError):
                stage.fault = stage.fault or f"no answer to {size} images: {first_line(found)}"
                continue
            difference, fault = hold_against(requests[name], found, tolerance)
            stage.difference = max(stage.difference, difference)
            stage.fault = stage.fault or (fault and f"{size} images: {fault}")
    return list(stages.values())


def _answers(
    model: SessionModel, requests: Mapping[str, Request]
) -> dict[str, dict[str, np.ndarray] | tf.errors.OpError]:
    """Calls all signatures at once; if that fails, one by one to find the faulty one."""
    try:
        return dict(model.predict_together({name: r.inputs for name, r in requests.items()}))
    except tf.errors.OpError:
        return {name: _answer(model, name, request) for name, request in requests.items()}


def _answer(
    model: SessionModel, signature: str, request: Request
) -> dict[str, np.ndarray] | tf.errors.OpError:
    try:
        return model.predict(signature, request.inputs)
    except tf.errors.OpError as error:
        return error


def hold_against(
    request: Request, found: dict[str, np.ndarray], tolerance: Tolerance
) -> tuple[float, str]:
    """Compares an answer and its number of rows; returns as `report.compare`."""
    short = [name for name, value in found.items() if len(value) != request.rows]
    if short:
        return 0.0, f"{short[0]} has {len(found[short[0]])} rows for {request.rows} images"
    return compare(found, request.expected, tolerance)


def check_bad_images(
    model: SessionModel, golden: GoldenSet, requests: Mapping[str, Request]
) -> Stage:
    """Sends invalid images, alone and among valid ones; the model must reject them and survive.

    Args:
        model: The model.
        golden: Valid images.
        requests: Valid requests of all signatures; they are sent along, because the graph has been
            optimised for this set of signatures.
    """
    stage = Stage("bad images are refused")
    valid = {name: request.inputs for name, request in requests.items()}
    good = golden.files[0]
    before = peak_memory_mib()
    for what, bad in bad_files().items():
        for files, place in (([bad], 0), ([good, good, bad, good], 2)):
            array = np.empty(len(files), object)
            array[:] = files
            try:
                bad_request = {names.SERVING_DEFAULT: {names.IMAGE_BYTES: array}}
                model.predict_together({**valid, **bad_request})
            except tf.errors.OpError as error:
                if f"image {place}:" not in str(error):
                    stage.fault = (
                        f"the error of {what} does not name its place: {first_line(error)}"
                    )
            else:
                stage.fault = f"{what} was taken for an image"
    grown = peak_memory_mib() - before
    if grown > _MOST_GROWTH_MIB:
        stage.fault = f"the bad images took {grown:,.0f} MiB of memory"
    return stage


def bad_files() -> dict[str, bytes]:
    """Returns invalid files: an empty one, a text, half a JPEG, and a decompression bomb."""
    jpeg = tf.io.encode_jpeg(np.zeros((64, 64, 3), np.uint8)).numpy()
    return {
        "an empty string": b"",
        "a text file": b"This is no image.\n" * 20,
        "a truncated JPEG": jpeg[: len(jpeg) // 2],
        f"a PNG of {_BOMB_SIDE} x {_BOMB_SIDE} pixels": bomb(_BOMB_SIDE),
    }


def bomb(side: int) -> bytes:
    """Returns a black square one-bit PNG, about a thousandth of the size of its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    row = bytes(1 + -(-side // 8))
    packer = zlib.compressobj(9)
    data = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def check_bulk_job(model: str, golden: GoldenSet, tolerance: Tolerance) -> Stage:
    """Compares the bulk job's results with the answers in memory."""
    stage = Stage("bulk job")
    expected = dict(golden.answers)
    expected[names.PROBABILITY] = golden.answers[names.PROBABILITIES].max(axis=1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = answer_as_bulk_job(model, golden, Path(folder))
    except (tf.errors.OpError, ValueError) as error:
        stage.fault = first_line(error)
        return stage
    stage.difference, stage.fault = compare(found, expected, tolerance)
    return stage


def run_check(model: str, config: ServingCheckConfig) -> CheckReport:
    """Checks a model.

    Args:
        model: Folder of the SavedModel.
        config: The section.

    Returns:
        The report; a model that cannot be loaded is a failed stage.
    """
    report = CheckReport()
    extra = f"{model}/{names.EXTRA_ASSETS}"
    begin = time.perf_counter()
    try:
        card, golden = read_card(model), read_golden(f"{extra}/{names.GOLDEN}")
        loaded = SessionModel(model)
    except (tf.errors.OpError, OSError, ValueError) as error:
        report.stages.append(Stage("load in a TF1 session", first_line(error)))
        return report
    report.figures["load_secs"] = round(time.perf_counter() - begin, 3)
    report.stages.append(Stage("load in a TF1 session"))
    tolerance = tolerance_of(card, config)
    label = card.classes[0]
    report.stages.extend(check_in_session(loaded, golden, config, tolerance, label))
    if not report.refusals:
        requests = {
            name: build_request(name, inputs, golden, 1, label=label)
            for name, inputs in loaded.inputs.items()
        }
        report.stages.append(check_bad_images(loaded, golden, requests))
        report.figures["latency_ms"] = {
            f"{size} images" if size > 1 else "1 image": _latency_ms(loaded, golden, size, config)
            for size in config.batch_sizes
        }
    loaded.close()
    report.stages.append(check_bulk_job(model, golden, tolerance))
    report.figures |= {
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "signatures": len(loaded.inputs),
        "images": len(golden),
    }
    return report


def first_line(error: BaseException) -> str:
    """Returns the essential line of an error, without TensorFlow's list of nodes and tracebacks."""
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    asserted = _ASSERTED.search(text)
    if asserted:
        return asserted.group(1)[:400]
    lines = [line.strip() for line in str(text).splitlines()]
    said = [line for line in lines if line and not line.startswith("[[")]
    # A graph error starts with the origin of its ops and states the cause in its last line.
    return said[-1 if "Graph execution error" in text else 0][:400]


def _latency_ms(
    model: SessionModel, golden: GoldenSet, size: int, config: ServingCheckConfig
) -> float:
    signature = names.SERVING_DEFAULT
    request = build_request(signature, model.inputs[signature], golden, size, label="")

    def call() -> float:
        begin = time.perf_counter()
        model.predict(signature, request.inputs)
        return time.perf_counter() - begin

    return round(1000 * statistics.median(call() for _ in range(config.latency_requests)), 2)
