"""Defines the error of inputs that cannot be used; sources, ingest and the bulk job raise it."""

from trainer.errors import UserError


class InputError(UserError, ValueError):
    """An input that cannot be used, or an output that cannot be written.

    The message is one line: what was found where, and what to do about it.
    """
