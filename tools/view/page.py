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
    data["vocabulary"] = [text for text, _ in table.vocabulary]
    data["special"] = [i for i, (_, special) in enumerate(table.vocabulary) if special]
    numbers, data["columns"] = table.numbers()
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(
        gzip.compress(b"%08d" % len(text) + text + numbers, compresslevel=9, mtime=0)
    ).decode()


class _Table:
    """Shared by all sources: the texts of tokens, and the numbers of all tokens."""

    def __init__(self):
        self.vocabulary, self.ids, self.count = {}, [], 0
        self.columns = {name: [] for name in TOKEN_COLUMNS}

    def add(self, answer: Answer) -> int:
        """Append an answer's tokens and return where they begin. Missing columns become NaN."""
        start, length = self.count, len(answer.pieces)
        keys = zip(answer.pieces, answer.special, strict=True)
        self.ids += [self.vocabulary.setdefault(key, len(self.vocabulary)) for key in keys]
        for name, parts in self.columns.items():
            parts.append(answer.columns.get(name, np.full(length, np.nan)))
        self.count += length
        return start

    def numbers(self) -> tuple[bytes, list[str]]:
        """(the numbers of all columns, 4 bytes each; the names of the columns)."""
        columns = {name: np.concatenate([[], *parts]) for name, parts in self.columns.items()}
        parts = [np.array(self.ids, "<u4"), *(values.astype("<f4") for values in columns.values())]
        return b"".join(part.tobytes() for part in parts), ["ids", *columns]


def _source(source: Source, table: _Table) -> dict:
    return vars(source) | {"groups": [_group(group, table) for group in source.groups]}


def _group(group: Group, table: _Table) -> dict:
    answers = [_answer(answer, table) for answer in group.answers]
    return vars(group) | {"answers": answers}


def _answer(answer: Answer, table: _Table) -> dict:
    """An answer with tokens names where they begin; one without brings its text."""
    tokens = ("text", "pieces", "special", "columns")
    text = {"text": answer.text} if answer.pieces is None else {"start": table.add(answer)}
    facts = {name: value for name, value in vars(answer).items() if name not in tokens}
    return facts | text
