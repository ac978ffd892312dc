r"""Parts of the real line: intervals, inequalities, their unions, intersections and differences.

`2 \le |x| < 5`, `(-5,-2] \cup [2,5)` and `-5 < x \le -2 or 2 \le x < 5` are the same.
"""

import functools
import math
import re
from typing import NamedTuple

from .brackets import AND, CAP, COMMA, CUP, END, OR, WITHOUT, elements, enclosed, relations, split
from .normalise import key
from .parse import Unreadable, parse
from .read import is_quantity
from .values import constant


class Piece(NamedTuple):
    """An interval. The ends are LaTeX."""

    left: str
    left_closed: bool
    right: str
    right_closed: bool


class Region(NamedTuple):
    name: str  # of the variable, "" if it has none
    pieces: list[Piece]


_LOW, _HIGH = "-\\infty", "\\infty"
_ALL = [Piece(_LOW, False, _HIGH, False)]
_BUILDER = rf"\s*(\\?[a-zA-Z])\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?(?:\\mid{END}|:|\|)\s*(.*)"
_SIGNS = {"<", "\\le", ">", "\\ge", "\\ne"}


def _place(end: str) -> float | None:
    """Where an end is, None if it holds a variable."""
    text = end.replace("+", "").replace(" ", "").strip("()")
    if text in (_LOW, _HIGH):
        return math.inf if text == _HIGH else -math.inf
    try:
        return float(constant(parse(end)))
    except (Unreadable, TypeError, ValueError, OverflowError):  # not a real number
        return None


def _joined(pieces: list[Piece]) -> list[Piece] | None:
    """Disjoint pieces from left to right; None if an end holds a variable."""
    if any(_place(end) is None for piece in pieces for end in piece[::2]):
        return None
    result: list[Piece] = []
    for piece in sorted(pieces, key=lambda one: (_place(one.left), not one.left_closed)):
        gap = _place(piece.left) - _place(result[-1].right) if result else math.inf
        if gap < 0 or (gap == 0 and (piece.left_closed or result[-1].right_closed)):
            far = max(result[-1], piece, key=lambda one: (_place(one.right), one.right_closed))
            result[-1] = result[-1]._replace(right=far.right, right_closed=far.right_closed)
        else:
            result.append(piece)
    return result


def _complement(pieces: list[Piece] | None) -> list[Piece] | None:
    if pieces and len(pieces) > 1:
        pieces = _joined(pieces)
    if pieces is None:
        return None
    result, left, closed = [], _LOW, False
    for piece in pieces:
        if piece.left != _LOW:
            result.append(Piece(left, closed, piece.left, not piece.left_closed))
        left, closed = piece.right, not piece.right_closed
    return result if left == _HIGH else [*result, Piece(left, closed, _HIGH, False)]


def _both(one: list[Piece], other: list[Piece] | None) -> list[Piece] | None:
    """The intersection, by de Morgan."""
    if one == _ALL:
        return other
    outside = _complement(one), _complement(other)
    return None if None in outside else _complement(_joined(outside[0] + outside[1]))


@functools.lru_cache(maxsize=4096)
def region(latex: str) -> Region | None:
    """The region that `latex` describes, None if it is anything else or not plain to see."""
    found = _region(latex)
    if not found or not found.pieces:
        return None
    joined = _joined(found.pieces)
    if joined is None:
        return found
    point = any(_place(piece.left) > _place(piece.right) for piece in joined)  # such as (2, 1)
    return None if point else found._replace(pieces=joined)


def _region(latex: str) -> Region | None:
    if named := re.fullmatch(rf"(\\?[a-zA-Z]\w*)\s*\\in{END}\s*(.*)", latex):
        inner = _region(named[2])
        return inner and inner._replace(name=key(named[1]))
    if builder := re.fullmatch(rf"\\\{{{_BUILDER}\\\}}", latex):
        inner = _region(builder[2])
        return inner._replace(name="") if inner and inner.name == key(builder[1]) else None
    for separator, combine in ((f"{OR}|{CUP}", list.__add__), (f"{AND}|{CAP}", _both)):
        parts = split(latex, separator)
        if len(parts) > 1 and (found := _combined(parts, combine)):
            return found
    if len(parts := split(latex, WITHOUT)) == 2:
        points = enclosed(parts[1], r"\\\{|\{", r"\\\}|\}") or parts[1]
        whole, minus = _region(parts[0]), _region(parts[1])
        outside = _complement(minus.pieces if minus else _points(points))
        pieces = whole and _both(whole.pieces, outside)
        return pieces and whole._replace(pieces=pieces)
    parts = split(latex, ",")
    if len(parts) > 1 and all(relations(part)[1] for part in parts):
        both = _combined(parts, _both)
        return both if both and both.pieces else _combined(parts, list.__add__)
    return _piece(latex)


def _point(latex: str) -> Region | None:
    r"""Each value of x = 3 or \{1, 2\}, as a part of a union."""
    found = re.fullmatch(r"(?:(\\?[a-zA-Z])\s*=(?=[^=]+$)|\\\{)(.*?)(?:\\\})?", latex)
    return Region(key(found[1] or ""), _points(found[2])) if found else None


def _points(text: str) -> list[Piece]:
    r"""3, \pm 1 or 1, 2."""
    parts = split(text.replace(r"\pm", "+") + "," + text.replace(r"\pm", "-"), COMMA)
    return [Piece(part, True, part, True) for part in dict.fromkeys(parts)]


def _combined(parts: list[str], combine) -> Region | None:
    found = [_region(part) or _point(part) for part in parts]
    if None in found or len({one.name for one in found if one.name}) > 1:
        return None
    pieces = found[0].pieces
    for one in found[1:]:
        pieces = pieces and combine(pieces, one.pieces)
    return None if pieces is None else Region(max(one.name for one in found), pieces)


def _piece(latex: str) -> Region | None:
    if key(latex) in ("\\mathbbR", "\\mathbb{R}"):
        return Region("", _ALL)
    if half := re.fullmatch(r"\\mathbb\{?R\}?[\^_]\{?([+-]|(?:[<>]|\\[lg]e)0)\}?", key(latex)):
        signs = {"+": ">0", "-": "<0"}
        return _region("x" + signs.get(half[1], half[1]))._replace(name="")
    if (ends := elements(latex)) and len(ends[1]) == 2 and not any(map(elements, ends[1])):
        (left, right), brackets = ends[1], ends[0]
        return Region("", [Piece(left, brackets[0] == "[", right, brackets[1] == "]")])
    sides, signs = relations(latex)
    at = next((n for n, side in enumerate(sides) if _variable(side)), None)
    if at is None or len(signs) not in (1, 2) or not set(signs) <= _SIGNS:
        return None
    name, ends = rf"(?<![\\a-zA-Z]){re.escape(_variable(sides[at]))}(?![a-zA-Z])", [*_ALL[0]]
    for n, sign in enumerate(signs):
        end = sides[n + (n == at)]
        if n not in (at - 1, at) or re.search(name, end):
            return None
        if sign == "\\ne":
            pieces = _complement(_points(end))
            return _moved(sides[at], pieces) if pieces and len(signs) == 1 else None
        upper = (sign in ("<", "\\le")) == (n == at)
        ends[2 * upper : 2 * upper + 2] = end, sign in ("\\le", "\\ge")
    return _moved(sides[at], [Piece(*ends)])


def _variable(latex: str) -> str:
    r"""The x of x, |x| or |x - 1|, the g(x) of g(x); "" of anything else."""
    inner = enclosed(latex, r"\|", r"\|")
    if inner is None:
        return key(latex) if is_quantity(latex) else ""
    found = re.fullmatch(r"(\\?[a-zA-Z]+)\s*(?:[+-]\s*[\d./]+)?", inner)
    return found[1] if found and is_quantity(found[1]) else ""


def _moved(variable: str, pieces: list[Piece]) -> Region | None:
    """The region of x, given the region `pieces` of x, |x| or |x - 1|."""
    name, inner = _variable(variable), enclosed(variable, r"\|", r"\|")
    if inner is None:
        return Region(name, pieces)
    pieces = _both(pieces, [Piece("0", True, _HIGH, False)])
    if pieces is None:
        return None
    shift = inner[len(name) :].strip().translate(str.maketrans("+-", "-+"))

    def moved(end: str, sign: str) -> str:
        return f"{sign}{_HIGH}" if end == _HIGH else f"{sign}({end}){shift}"

    return Region(name, [
        *(Piece(moved(a, ""), b, moved(c, ""), d) for a, b, c, d in pieces),
        *(Piece(moved(c, "-"), d, moved(a, "-"), b) for a, b, c, d in pieces),
    ])  # fmt: skip
