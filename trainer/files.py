"""Reading the .jsonl files that runs and evaluations append to."""

import json
from contextlib import suppress
from pathlib import Path


def read_jsonl(path: str | Path) -> list[dict]:
    """The objects of a .jsonl file, one a line.

    A line that is still being written, or that a kill cut off, is left out.
    """
    rows = []
    with open(path) as file:
        for line in file:
            with suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return rows
