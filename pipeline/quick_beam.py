"""Shortens the set-up of Beam's pipelines; `local_runner.py` wraps a run in it."""

import contextlib
import types
import weakref
from collections.abc import Iterator
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core


@contextlib.contextmanager
def quick_beam() -> Iterator[None]:
    """Lets Beam keep what it would compute again for each of a pipeline's hundreds of transforms.

    It parses all options to read one of them, and inspects the same methods several times: a sixth
    of the time of a step whose data are small.
    """
    views: Any = weakref.WeakKeyDictionary()
    # Weak, since unpickled functions may hold a model.
    arguments: Any = weakref.WeakKeyDictionary()
    parse, inspect = PipelineOptions.view_as, core.get_function_args_defaults

    def view_as(options: PipelineOptions, cls: Any) -> Any:
        # All views of some options share their values.
        known = views.setdefault(options, {})
        if cls not in known:
            known[cls] = parse(options, cls)
        return known[cls]

    def get_function_args_defaults(function: Any) -> Any:
        if not isinstance(function, types.MethodType):
            return inspect(function)
        if function.__func__ not in arguments:
            arguments[function.__func__] = inspect(function)
        names, defaults = arguments[function.__func__]
        return list(names), list(defaults)

    PipelineOptions.view_as = view_as
    core.get_function_args_defaults = get_function_args_defaults
    try:
        yield
    finally:
        PipelineOptions.view_as = parse
        core.get_function_args_defaults = inspect
