"""Defines the errors that users can act on.

It is in the lowest package, so that every other package may import it, and it imports nothing.
"""


class UserError(Exception):
    """Marks an error whose message is complete: what is wrong, where, and how to fix it.

    The command line prints the message without class name and traceback. Subclasses also derive
    from `ValueError` or `RuntimeError`, so that callers can catch them as built-in errors.
    """


class InputError(UserError, ValueError):
    """Reports an input that cannot be used, or an output that cannot be written.

    The message is one line that says what was found, where, and how to fix it.
    """
