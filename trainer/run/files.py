"""Folders and files of runs and evaluations."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from trainer.errors import Refused


def read_jsonl(path: str | Path) -> list[dict]:
    """The objects of a .jsonl file, one per line.

    An incomplete line, still being written or cut off by a kill, is left out.
    """
    rows = []
    with open(path, errors="replace") as file:
        for line in file:
            with suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def read_json(path: Path) -> dict:
    """The object of a .json file. Raises Refused if it holds none."""
    with suppress(ValueError):
        if isinstance(found := json.loads(path.read_text()), dict):
            return found
    raise Refused(f"{path} is damaged, or of another kind: it holds no JSON object")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Write objects as a .jsonl file, one per line. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def make_folder(out: Path) -> None:
    """Make a folder. Raises Refused, with what to do, if that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"cannot make the folder {out} ({error.strerror}); give another --out"
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, even after a kill."""
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.write_text(text)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise Refused(
            f"cannot write {path} ({error.strerror}): make room, then give the same command again"
        ) from error


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
