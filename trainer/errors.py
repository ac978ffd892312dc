"""The one error that is the user's to correct."""


class Refused(ValueError):
    """A run cannot begin or go on as asked; the message says in one sentence what to change.

    The scripts print the message alone. Every other exception keeps its traceback, because it is a
    slip in the code, most often in the line that somebody has just changed.
    """
