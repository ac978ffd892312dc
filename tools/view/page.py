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
    """The data of a page, in base64. Missing columns of an answer become NaN."""
    groups = [group for source in sources for group in source.groups]
    answers = [a for group in groups for a in group.answers if a.pieces is not None]
    vocabulary, ids = {}, []
    for answer in answers:
        answer.start = len(ids)
        keys = zip(answer.pieces, answer.special, strict=True)
        ids += [vocabulary.setdefault(key, len(vocabulary)) for key in keys]
    columns = {"ids": np.array(ids, "<u4")}
    for name in TOKEN_COLUMNS:
        parts = [answer.columns.get(name, np.full(answer.length, np.nan)) for answer in answers]
        columns[name] = np.concatenate([[], *parts]).astype("<f4")
    curves = (name for source in sources for name in source.curves)
    data = {
        "sources": sources,
        "panels": [panel._asdict() for panel in choose(curves)],
        "vocabulary": [text for text, _ in vocabulary],
        "special": [i for i, (_, special) in enumerate(vocabulary) if special],
        "columns": list(columns),
    }
    text = json.dumps(data, default=_plain, separators=(",", ":"), allow_nan=False).encode()
    packed = b"".join([b"%08d" % len(text), text, *map(np.ndarray.tobytes, columns.values())])
    return base64.b64encode(gzip.compress(packed, compresslevel=9, mtime=0)).decode()


def _plain(part: Source | Group | Answer) -> dict:
    """A part of the JSON object. An answer brings its text only where its tokens do not."""
    hidden = {"pieces", "special", "columns"}
    if getattr(part, "start", None) is not None:
        hidden.add("text")
    return {name: value for name, value in vars(part).items() if name not in hidden}
