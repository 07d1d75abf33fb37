"""How tests compare floats: by the numeric contract (docs/numerics.md), never for equality.

`assert_close` and `assert_same_table` are for results of other batches, signatures, processes or
threads. Results of the same shapes on the same kernels may be compared exactly; `jitter` makes the
fixture models behave like a processor on which nothing else may.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from serving.tolerance import FLOATS, differences


def assert_close(found: Any, expected: Any, name: str = "") -> None:
    """Fails where floats differ by more than the contract allows."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{name}: {found.shape} instead of {expected.shape}"
    worst = differences(found, expected).max(initial=0.0)
    assert worst <= FLOATS, f"{name}: differs by {worst:.3g}, allowed are {FLOATS:g}"


def assert_same_answers(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Fails where two answers to the same images differ: texts and numbers at all, floats."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        values, ours = np.asarray(values), np.asarray(found[name])
        if values.dtype.kind == "f":
            assert_close(ours, values, name)
        else:
            np.testing.assert_array_equal(ours, values, err_msg=name)


def assert_same_table(found: pa.Table, expected: pa.Table) -> None:
    """Fails where two tables of the same images differ: rows, order and all columns but floats."""
    assert found.schema.equals(expected.schema)
    assert found.num_rows == expected.num_rows
    for field in expected.schema:
        ours, theirs = found[field.name], expected[field.name]
        if _holds_floats(field.type):
            assert ours.is_null().equals(theirs.is_null()), field.name
            assert_close(_numbers(ours), _numbers(theirs), field.name)
        else:
            assert ours.equals(theirs), field.name


def jitter(values: Any) -> Any:
    """Changes floats [n, ...] by as much as kernels for other batch sizes may: a last bit or two.

    Used inside the graphs of fixture models. The same number of rows gives the same floats, as on
    every machine; another number gives others, as on some.
    """
    import tensorflow as tf

    rows = tf.cast(tf.shape(values)[0] % 61, values.dtype)
    return values * (1.0 + rows * 2.0**-23)


def _holds_floats(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_floating(kind))


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    parts = list(column.chunks)
    while parts and not pa.types.is_floating(parts[0].type):
        parts = [part.flatten() for part in parts]
    if not parts:
        return np.zeros(0)
    return np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
