"""Beam computes the same in the block as outside of it."""

from collections.abc import Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, TypeOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import core

from pipeline.quick_beam import quick_beam


class AddNumber(beam.DoFn):
    """Adds a number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def process(self, element: int, scale: int = 2) -> Iterator[int]:
        """Yields the sum."""
        yield element + self._number * scale


def test_pipelines_compute_the_same() -> None:
    for expected in ([5, 7], [5, 7]):
        with quick_beam(), beam.Pipeline() as pipeline:
            first, second = (
                pipeline
                | str(number) >> beam.Create([1])
                | f"add {number}" >> beam.ParDo(AddNumber(number))
                for number in (2, 3)
            )
            assert_that((first, second) | beam.Flatten(), equal_to(expected))


def test_views_of_options_share_their_values() -> None:
    with quick_beam():
        one, other = PipelineOptions(["--runner=a"]), PipelineOptions(["--runner=b"])
        assert [each.view_as(StandardOptions).runner for each in (one, other)] == ["a", "b"]
        one.view_as(StandardOptions).runner = "c"
        assert one.view_as(TypeOptions).view_as(StandardOptions).runner == "c"
        assert one.view_as(StandardOptions).runner == "c"
        assert other.view_as(StandardOptions).runner == "b"


def test_arguments_of_methods_are_those_that_beam_finds() -> None:
    before = core.get_function_args_defaults
    expected = before(AddNumber(1).process)
    with quick_beam():
        for _ in range(2):
            found = core.get_function_args_defaults(AddNumber(1).process)
            assert tuple(map(list, found)) == tuple(map(list, expected))
            found[0].clear()
        assert core.get_function_args_defaults(AddNumber.process)[0][0] == "self"
    assert core.get_function_args_defaults is before
