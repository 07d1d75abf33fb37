"""The one error that a person sees when an input cannot be used.

Raised by the sources and by ingest; the command line prints its message and nothing else.
"""


class InputError(ValueError):
    """An input that cannot be used, or an output that cannot be written.

    The message is one line: what was found where, and what to do about it.
    """
