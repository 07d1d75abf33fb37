"""Defines the error that sources, ingest and the bulk job raise for unusable inputs."""

from trainer.errors import UserError


class InputError(UserError, ValueError):
    """Reports an input that cannot be used, or an output that cannot be written.

    The message is one line that says what was found, where, and how to fix it.
    """
