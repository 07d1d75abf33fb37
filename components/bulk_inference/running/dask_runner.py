"""Defines the Dask runner of bulk jobs, which accepts linear pipelines only.

Beam's `DaskRunner` computes the last transform only, merges tagged outputs and drops what a bundle
yields at its end, each without an error. `engines.py` names this class in `--runner`.
"""

from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.runners.dask.dask_runner import DaskRunner, DaskRunnerResult
from apache_beam.runners.dask.overrides import _Create, _Reshuffle, dask_overrides

_SUPPORTED: Final = (_Create, _Reshuffle, beam.ParDo)
"""The transforms that the runner executes as Beam defines them."""


class LinearDaskRunner(DaskRunner):
    """Runs pipelines in which each transform reads the only output of the one before."""

    def run_pipeline(self, pipeline: beam.Pipeline, options: PipelineOptions) -> Any:
        """Runs a pipeline, and returns before it ends.

        Raises:
            NotImplementedError: if the pipeline is not linear.
        """
        # What the runner would do first; it does nothing when repeated.
        pipeline.replace_all(dask_overrides())
        chain = _Chain()
        pipeline.visit(chain)
        result = super().run_pipeline(pipeline, options)
        return _Result(result.client, result.futures)


class _Result(DaskRunnerResult):
    """Closes the connection at the end; otherwise it would look for the scheduler for ever."""

    def wait_until_finish(self, duration: int | None = None) -> str:
        """Waits for the pipeline, and raises the error of a worker."""
        try:
            return super().wait_until_finish(duration)
        finally:
            self.client.close()


class _Chain(PipelineVisitor):
    """Follows the transforms of a pipeline, each of which must continue the previous one."""

    def __init__(self) -> None:
        self._previous: AppliedPTransform | None = None

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        """Checks the next transform; composite ones are checked by their parts."""
        node, previous = transform_node, self._previous
        producers = [each.producer for each in node.inputs if isinstance(each, beam.PCollection)]
        reason = ""
        if type(node.transform) not in _SUPPORTED:
            reason = f"it is a {type(node.transform).__name__}"
        elif node.side_inputs:
            reason = "it has a side input"
        elif len(node.outputs) > 1:
            reason = "it has several outputs"
        elif producers != ([previous] if previous else []):
            reason = "it does not follow the transform before it"
        elif previous and _yields_at_the_end(previous.transform):
            reason = "what the transform before it yields in finish_bundle would be lost"
        if reason:
            raise NotImplementedError(
                f"Beam's Dask runner would not execute {node.full_label} correctly: {reason}"
            )
        self._previous = node


def _yields_at_the_end(transform: beam.PTransform) -> bool:
    function = getattr(transform, "fn", None)
    return function is not None and type(function).finish_bundle is not beam.DoFn.finish_bundle
