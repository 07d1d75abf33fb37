"""The line that a person gets from an error of many layers."""

from components.image_sources.errors import InputError
from pipeline.causes import cause
from pipeline.config import ConfigError


def raised_from(error: Exception, inner: Exception | None) -> Exception:
    try:
        raise error from inner
    except Exception as caught:
        return caught


def test_an_error_that_people_cause_is_its_message() -> None:
    assert cause(ConfigError("a.yaml: trainr: unknown key")) == "a.yaml: trainr: unknown key"


def test_beam_around_the_cause_is_taken_off() -> None:
    inner = InputError("a.zip: holds no images [while running 'Ingest/Read']")
    outer = raised_from(RuntimeError("bundle failed\nTraceback ..."), inner)
    assert cause(outer) == "a.zip: holds no images"


def test_the_cause_is_found_in_the_text_of_a_worker_process() -> None:
    text = (
        "Traceback (most recent call last):\n  File ...\n"
        "components.image_sources.errors.InputError: a.zip: is not a zip file\n\nduring ..."
    )
    assert cause(RuntimeError(text)) == "a.zip: is not a zip file"


def test_a_full_disk_names_the_file() -> None:
    error = OSError(28, "No space left on device", "/data/x")
    assert cause(raised_from(RuntimeError("step failed"), error)) == (
        "/data/x: No space left on device"
    )


def test_an_unknown_error_gives_its_type_and_first_line() -> None:
    assert cause(KeyError("lost")) == "KeyError: 'lost'"
    assert cause(ZeroDivisionError()) == "ZeroDivisionError"


def test_a_cycle_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert cause(first) in {"ValueError: first", "ValueError: second"}
