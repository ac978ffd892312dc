"""The one error that is the user's to correct, and what several files say by it."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class Refused(ValueError):
    """A run cannot begin or continue as asked. The message says in one sentence what to change.

    The scripts print the message alone. Every other exception keeps its traceback, because it is a
    slip in the code, most often in a line that was just changed.
    """


def refuse_pointer(path: Path) -> None:
    """Raise Refused if git-lfs has not yet put the data in the place of its pointer."""
    with open(path, "rb") as file:
        if file.read(64).startswith(b"version https://git-lfs"):
            raise Refused(f"{path}: it is a git-lfs pointer, not the data; run git lfs pull there")


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """The end of a sentence about an unknown word: "; did you mean X?", "" where none is close.

    before: what to write in front of the word that was found, such as "--".
    """
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {before}{close[0]}?" if close else ""
