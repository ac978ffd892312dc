"""One self-contained HTML file: the page's code, and the data, compressed, inside it.

The data is the length of a JSON object in bytes (8 digits), that object, and then the numbers of
all tokens, column by column, 4 bytes each. It is gzipped and encoded in base64, so that no text of
a model can become part of the page.
"""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np

from tools.panels import choose
from tools.view.folder import Answer, Group, Source
from trainer.run.kept import TOKEN_COLUMNS

HERE = Path(__file__).parent
SCRIPTS = ("data.js", "curves.js", "answers.js", "page.js")


def render(sources: list[Source]) -> str:
    """The page."""
    # "</" inside a library's code would end its script element.
    files = {
        "{{style}}": _read("uPlot.min.css") + _read("page.css"),
        "{{licence}}": _read("uPlot.LICENSE"),
        "{{plots}}": _read("uPlot.iife.min.js").replace("</", "<\\/"),
        "{{script}}": "".join(map(_read, SCRIPTS)),
        "{{data}}": pack(sources),
    }
    return re.sub(r"\{\{\w+\}\}", lambda mark: files[mark[0]], _read("page.html"))


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def pack(sources: list[Source]) -> str:
    """The data of a page, in base64."""
    table = _Table()
    data = {"sources": [_source(source, table) for source in sources]}
    names = (name for source in sources for name in source.curves)
    data["panels"] = [panel._asdict() for panel in choose(names)]
    data |= {"problems": list(table.problems), "vocabulary": [text for text, _ in table.vocabulary]}
    data["special"] = [i for i, (_, special) in enumerate(table.vocabulary) if special]
    numbers, data["columns"] = table.numbers()
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(
        gzip.compress(b"%08d" % len(text) + text + numbers, compresslevel=9, mtime=0)
    ).decode()


class _Table:
    """Shared by all sources: problems, texts of tokens, and the numbers of all tokens."""

    def __init__(self):
        self.problems, self.vocabulary = {}, {}
        self.ids, self.columns, self.count = [], {name: [] for name in TOKEN_COLUMNS}, 0

    def problem(self, group: Group) -> int:
        return self.problems.setdefault((group.problem, group.gold, group.task), len(self.problems))

    def add(self, answer: Answer) -> int:
        """Append an answer's tokens and return where they begin. Missing columns become NaN."""
        start, length = self.count, len(answer.pieces)
        keys = zip(answer.pieces, answer.special, strict=True)
        self.ids += [self.vocabulary.setdefault(key, len(self.vocabulary)) for key in keys]
        for name, parts in self.columns.items():
            values = answer.columns.get(name, np.full(length, np.nan))
            if name == "weights":
                values = values / max(_heaviest(answer), 1e-30)
            parts.append(values.astype(np.float16))  # three digits, which compress well
        self.count += length
        return start

    def numbers(self) -> tuple[bytes, list[str]]:
        """(the numbers of all columns, 4 bytes each; the names of the columns)."""
        columns = {name: np.concatenate([[], *parts]) for name, parts in self.columns.items()}
        parts = [np.array(self.ids, "<u4"), *(values.astype("<f4") for values in columns.values())]
        return b"".join(part.tobytes() for part in parts), ["ids", *columns]


def _heaviest(answer: Answer) -> float:
    weights = answer.columns.get("weights")
    return float(weights.max()) if weights is not None and len(weights) else 0.0


def _source(source: Source, table: _Table) -> dict:
    return vars(source) | {"groups": [_group(group, table) for group in source.groups]}


def _group(group: Group, table: _Table) -> dict:
    """A group names its problem, gold and task by their place in the table."""
    answers = [_answer(answer, table) for answer in group.answers]
    shown = {"problem": table.problem(group), "answers": answers}
    return {k: v for k, v in vars(group).items() if k not in ("gold", "task", "verify")} | shown


def _answer(answer: Answer, table: _Table) -> dict:
    """An answer with tokens names where they begin; one without brings its text."""
    tokens = ("text", "pieces", "special", "columns")
    text = {"text": answer.text} if answer.pieces is None else {"start": table.add(answer)}
    facts = {name: value for name, value in vars(answer).items() if name not in tokens}
    return facts | text | {"weight": _heaviest(answer)}
