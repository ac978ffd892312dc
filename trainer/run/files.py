"""Folders and files of runs and evaluations."""

import hashlib
import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from trainer.errors import Refused


def checkpoints(out: Path) -> list[Path]:
    """A run's checkpoints, oldest first; not one that is still being written."""
    return sorted((out / "checkpoints").glob("step_??????"))


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


def read_json(path: Path, keys: Collection[str] = ()) -> dict:
    """The object of a .json file. Raises Refused if there is none, or one without these keys."""
    if not path.is_file():
        raise Refused(f"There is no {path}: give the folder of a run or of an evaluation")
    with suppress(ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and found.keys() >= set(keys):
            return found
    what = f" with {', '.join(keys)}" if keys else ""
    raise Refused(f"{path} is damaged, or of another kind: it holds no JSON object{what}")


def write_json(path: Path, value: dict) -> None:
    write_atomically(path, json.dumps(value, indent=1) + "\n")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Write objects as a .jsonl file, one per line."""
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
    """Write a file, so that a reader sees the old content or the new even after a kill."""
    make_folder(path.parent)
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.write_text(text)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise Refused(
            f"cannot write {path} ({error.strerror}): make room, then give the same command again"
        ) from error


def changed(before: dict, now: dict) -> list[str]:
    """The keys whose values differ, sorted."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def check_same(out: Path, what: str, before: dict, now: dict, free: Collection[str] = ()) -> None:
    """Raise Refused, and say how, if a folder's settings have changed; those in `free` may."""
    names = [name for name in changed(before, now) if name not in free]
    if names := ["recipe"] if "recipe" in names else names:  # another one has other flags
        told = [f"{name}: {before.get(name)!r} there, {now.get(name)!r} here" for name in names]
        raise Refused(
            f"{out} holds {what} with other settings ({', '.join(f'{one:.200}' for one in told)}); "
            f"add --out {out}-{names[0]}, say, or delete that folder"
        )


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
