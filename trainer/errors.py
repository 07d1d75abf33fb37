"""Defines the base class of errors that users can act on.

It stands in the lowest package, where every other package may import it, and imports nothing.
"""


class UserError(Exception):
    """Marks an error whose message is the whole answer: what is wrong, where, and what to do.

    The command line prints the message without class name and traceback. Subclasses also derive
    from `ValueError` or `RuntimeError`, so that callers can catch them as built-in errors.
    """
