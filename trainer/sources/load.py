"""Load problems by the name of their source.

    problems = load_problems("BytedTsinghua-SIA/DAPO-Math-17k")
    problems = load_problems("aime24, aime25, ~/my problems.jsonl")

A source is one of the following, or several with commas between them:
    NAME                               a benchmark: aime24, math500, ... (hub.BENCHMARKS)
    ID, ID:SPLIT or ID:CONFIG/SPLIT    a dataset of the Hugging Face hub
    PATH                               a .jsonl, .json (either may be gzipped) or .parquet file
    tiny:SPLIT/LEVEL                   the embedded world, such as tiny:train/easy
    liteppo:easy, :medium or :hard     the three training sets of Lite PPO, drawn from the hub
    logic:NAME or logic:NAME:SIZE      Reasoning Gym puzzles, such as logic:train (logic.py)
"""

import codecs
import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tiny import world
from trainer.data import Problem
from trainer.errors import Refused, did_you_mean, refuse_pointer
from trainer.sources import hub, logic
from trainer.sources.rows import collect, known_columns, table_rows

ACCEPTED = (
    "a .jsonl, .json or .parquet file, a hub id such as openai/gsm8k, a benchmark such as aime24, "
    "tiny:SPLIT/LEVEL, liteppo:LEVEL or logic:NAME"
)


def load_problems(source: str, seed: int = 42, *, solutions: bool = False) -> list[Problem]:
    """The problems of one or several sources (see above), in order.

    seed: only for liteppo: and logic:. solutions: also fill Problem.solution, which for DeepMath
    means a download of 2 GB. Prints how many rows were dropped, and why. Raises Refused, in one
    sentence, for a missing file or dataset, an unreachable hub, or a wrong row or file.
    """
    names = split_sources(source)
    if not names:
        raise Refused(f"the name of the problems is empty; give {ACCEPTED}")
    return [problem for name in names for problem in _load(name, seed, solutions)]


def split_sources(text: str) -> list[str]:
    """ "a.jsonl, b.jsonl" -> ["a.jsonl", "b.jsonl"]. An existing path may contain commas."""
    parts, names = text.split(","), []
    while parts:
        lengths = range(len(parts), 1, -1)
        joined = (n for n in lengths if os.path.exists(_path(",".join(parts[:n]))))
        n = next(joined, 1)
        names.append(",".join(parts[:n]).strip())
        parts = parts[n:]
    return [name for name in names if name]


def _path(name):
    return Path(os.path.expanduser(name.strip()))


def _load(name, seed, solutions):
    kind, _, rest = name.partition(":")
    if kind == "tiny":
        split, slash, level = rest.partition("/")
        if not slash:
            raise Refused(f"{name}: write tiny:SPLIT/LEVEL, such as tiny:train/easy")
        try:
            rows = world.problems(split, level)
        except ValueError as error:
            raise Refused(str(error)) from None
        return [Problem(row["problem"], row["answer"], row["task"]) for row in rows]
    if kind == "liteppo":
        return hub.load_lite_ppo(rest, seed, solutions)
    if kind == "logic":
        return logic.load(rest, seed)
    path = _path(name)
    if path.is_dir():
        raise Refused(f"{name}: it is a folder; name a .jsonl, .json or .parquet file in it")
    if re.search(r"\.(jsonl|json|parquet)(\.gz)?$", path.name, re.IGNORECASE):
        if not path.exists():
            near = path.parent.iterdir() if path.parent.is_dir() else ()
            hint = did_you_mean(path.name, [found.name for found in near])
            raise Refused(f"{name}: no such file{hint or f'; give {ACCEPTED}'}")
        task = path.name.removesuffix(".gz").rpartition(".")[0]
        rows = _file_rows(name, path, solutions)
        return [problem for problem, _ in collect(name, rows, task, solutions=solutions)]
    if path.exists():
        csv = "pandas.read_csv(...).to_json(..., orient='records', lines=True) converts it; "
        hint = csv if path.suffix == ".csv" else ""
        raise Refused(f"{name}: unknown kind of file; {hint}give {ACCEPTED}")
    hub_id = hub.BENCHMARKS.get(name, name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(:[^\s:]+)?", hub_id):
        raise Refused(f"{name}: not a known source; give {ACCEPTED}")
    return [problem for problem, _ in hub.load_hub(hub_id, solutions)]


# --- files: pairs of (place, row), the place for error messages ---


def _file_rows(name, path, solutions) -> Iterator[tuple[str, dict]]:
    import pyarrow.parquet

    try:
        refuse_pointer(path)
        if path.suffix.lower() == ".parquet":
            file = pyarrow.parquet.ParquetFile(path)
            columns = known_columns(name, file.schema_arrow.names, solutions)
            yield from table_rows(file.iter_batches(10_000, columns=columns))
        else:
            yield from _json_rows(name, path)
    except (pyarrow.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise Refused(f"{name}: cannot read it ({' '.join(str(error).split())})") from None


def _json_rows(name, path):
    """The rows of a JSON list, of one row over several lines, or of a file with one row a line."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16").encode()
    is_json = path.name.lower().removesuffix(".gz").endswith(".json")
    is_list = data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
    if is_json or is_list:
        try:
            rows = _parse(data, name)
        except Refused:
            if is_json and is_list:
                raise
        else:
            rows = rows if isinstance(rows, list) else [rows]
            return [(f"row {n}", row) for n, row in enumerate(rows, 1)]
    lines = [(f"line {n}", line) for n, line in enumerate(data.splitlines(), 1)]
    bare = b"\xef\xbb\xbf \t"
    return ((n, _parse(line, f"{name}, {n}")) for n, line in lines if line.strip(bare))


def _parse(data, place):
    try:
        return json.loads(data, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:  # also JSONDecodeError and UnicodeDecodeError
        raise Refused(f"{place}: not valid JSON ({error})") from None


def _no_key_twice(pairs):
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise Refused(f"the key {twice[0]} occurs twice")
    return dict(pairs)
