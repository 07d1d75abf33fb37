"""The served graph refuses by the header, turns, and says what it refused."""

import resource
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.image_checks import ImageFaultError, check, decode
from components.image_sources.config import LimitsConfig
from serving import names
from serving.golden import GoldenSet, answer_in_memory
from serving.image_headers.check import FAULTS, read_headers
from serving.input_validation import validate_files
from tests.serving import hostile
from tests.serving.conftest import IMAGE, Exported, Reloaded
from trainer.config import ImageConfig
from trainer.data import pixels

LIMITS = LimitsConfig()
SOUND = hostile.sound() | hostile.turned()
FAULTY = hostile.faulty()
LARGE = ImageConfig(height=48, width=48, channels=3)
"""A model so large that no file is decoded at a smaller scale. A graph takes seconds to trace."""
LIMIT = 48 * 40


@pytest.fixture(scope="module")
def facts() -> dict[str, np.ndarray]:
    """What the graph reads in the headers of all sound files, in one batch."""
    read = tf.function(lambda files: read_headers(files, LIMITS.max_pixels)._asdict())
    return {name: value.numpy() for name, value in read(tf.constant([*SOUND.values()])).items()}


def test_headers_say_what_the_ingest_reads_in_them(facts: dict[str, np.ndarray]) -> None:
    for place, (name, file) in enumerate(SOUND.items()):
        header = check(file, LIMITS)
        assert not isinstance(header, ImageFaultError), name
        assert FAULTS[facts["fault"][place]] == "valid", name
        found = tuple(int(facts[key][place]) for key in ("height", "width", "orientation"))
        assert found == (header.height, header.width, header.orientation), name
        assert facts["is_deep"][place] == (header.bit_depth == 16), name


@pytest.mark.parametrize("name", SOUND)
def test_pixels_are_those_of_the_bulk_job(name: str) -> None:
    header = check(SOUND[name], LIMITS)
    assert not isinstance(header, ImageFaultError)
    expected = decode(SOUND[name], header)
    # Its size and channels are kept, because `decode_file` does not fit it to the model.
    (validated,) = validate_files(tf.constant([SOUND[name]]), LARGE, LIMITS.max_pixels)
    np.testing.assert_array_equal(pixels.decode_file(validated, LARGE), expected)


@pytest.fixture(scope="module")
def annotate(reloaded: Reloaded) -> Any:
    return lambda files: reloaded.signatures[names.ANNOTATE](image_bytes=tf.constant(files))


@pytest.mark.parametrize("name", FAULTY)
def test_a_bad_image_is_named_by_its_place(name: str, annotate: Any, exported: Exported) -> None:
    bad, reason = FAULTY[name]
    good = exported.contents[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for files, place in (([bad], 0), ([good, good, bad, good], 2)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"image {place}: {reason}"):
            annotate(files)
    assert annotate([good])[names.LABEL].shape == (1,)
    # Unpacked, the bomb alone is 860 MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_all_bad_images_are_named(annotate: Any, exported: Exported) -> None:
    files = [b"", exported.contents[0], b"text"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"2 of 3 .*image 0: .*image 2: "):
        annotate(files)


def test_what_is_plain_stays_as_it_is() -> None:
    plain = {name: file for name, file in hostile.sound().items() if name != "16-bit png"}
    validated = validate_files(tf.constant([*plain.values()]), LARGE, LIMITS.max_pixels).numpy()
    changed = [name for name, file in zip(plain, validated, strict=True) if plain[name] != file]
    assert not changed


def blank(height: int, width: int) -> bytes:
    return tf.io.encode_png(np.zeros((height, width, 1), np.uint8)).numpy()


def test_the_limit_is_the_configured_one() -> None:
    file = blank(48, 40)
    assert validate_files(tf.constant([file]), IMAGE, LIMIT).numpy() == [file]
    with pytest.raises(tf.errors.InvalidArgumentError, match="49 x 40, the limit is 1920"):
        validate_files(tf.constant([blank(40, 49)]), IMAGE, LIMIT)


def test_images_count_by_the_limit_of_the_export(exported: Exported) -> None:
    def answer(file: bytes) -> GoldenSet:
        return answer_in_memory(exported.model, exported.transform, [file], max_pixels=LIMIT)

    file = blank(48, 40)
    assert answer(file).files[0] == file
    with pytest.raises(tf.errors.InvalidArgumentError, match="the limit is 1920"):
        answer(blank(40, 49))
