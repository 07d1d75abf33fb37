"""Computes a batch in parts on one device, as that many replicas do, and sums in their order.

`step.py` calls it where `trainer.parts` is more than 1. Sums over the batch then have the same
terms in the same order as on replicas, so that both give the same weights. Each part builds its
share of the graph in a thread of its own, because parts wait for each other's statistics in the
middle of the network (`synchronisation.py`). One thread runs at a time.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

_T = TypeVar("_T")


class _Place(threading.local):
    """The part that this thread builds; None outside of parts."""

    part: "BatchPart | None" = None


_PLACE = _Place()


class _Meeting:
    """Lets one thread run at a time, and hands sums of all parts to each of them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.turn = threading.Condition()
        self.failure: BaseException | None = None
        self._brought: dict[int, tf.Tensor] = {}
        self._sum: tf.Tensor | None = None
        self._round = 0

    def sum(self, number: int, value: tf.Tensor) -> tf.Tensor:
        """Returns the sum of what all parts bring; the caller holds `turn`."""
        self._brought[number] = value
        if len(self._brought) == self.count:
            self._sum = tf.add_n([self._brought[each] for each in range(self.count)])
            self._brought = {}
            self._round += 1
            self.turn.notify_all()
            return self._sum
        current = self._round
        while self._round == current and self.failure is None:
            self.turn.wait()
        if self.failure is not None:
            raise RuntimeError("another part of the batch failed") from self.failure
        return self._sum

    def fail(self, error: BaseException) -> None:
        """Ends the other parts, which would wait forever."""
        self.failure = self.failure or error
        self.turn.notify_all()


class BatchPart:
    """One of the parts of a batch.

    Attributes:
        number: its place, 0-based.
        count: number of parts.
    """

    def __init__(self, meeting: _Meeting, number: int) -> None:
        self._meeting = meeting
        self.number = number
        self.count = meeting.count

    def sum(self, value: tf.Tensor) -> tf.Tensor:
        """Computes the differentiable sum over all parts, which must all call it."""

        @tf.custom_gradient
        def summed(own: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                return self._meeting.sum(self.number, upstream)

            return self._meeting.sum(self.number, own), gradient

        return summed(value)


def current_part() -> BatchPart | None:
    """Returns the part that the caller computes; None if the batch is not in parts."""
    return _PLACE.part


def compute_in_parts(count: int, function: Callable[[int], _T]) -> list[_T]:
    """Calls a function once for each part, in a graph.

    Args:
        count: number of parts.
        function: builds the graph of the part with the given number.

    Returns:
        The results in the order of the parts.
    """
    graph, meeting = tf.compat.v1.get_default_graph(), _Meeting(count)
    results: dict[int, Any] = {}

    def build(number: int) -> None:
        with meeting.turn:
            _PLACE.part = BatchPart(meeting, number)
            try:
                with graph.as_default():
                    results[number] = function(number)
            except BaseException as error:  # Raised again below, in the caller's thread.
                meeting.fail(error)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if meeting.failure is not None:
        raise meeting.failure
    return [results[number] for number in range(count)]
