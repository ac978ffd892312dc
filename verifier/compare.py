r"""Are two answers equal? `equal(r"\dfrac12", "0.5")` is True. No state, no clock, no process: a
verdict never changes.

In this order: equal spelling, units, plain numbers, then the structure (lists, tuples, sets,
intervals, matrices, equations, inequalities), down to expressions, whose values are compared at
fixed points (evaluate.py). What cannot be read is not equal. An expression over 300 characters
passes by its spelling only.
"""

import functools
import itertools
import re

from .normalise import END, TEXT, Spelling, key, normalise
from .numbers import parse_number, same_number
from .parse import MINUS_ONE, Tree, Unreadable, parse, symbols
from .units import ambiguous, conflict
from .values import proportional, rounds_to, same

LONGEST = 300  # characters of an expression that is evaluated; the longest MATH-500 answer has 159
DEEPEST = 20  # brackets inside brackets

# ---------------------------------------------------------------- cutting a text at its top level

_CUP = rf"\\cup{END}"
_AND = rf"(?:\b(?:and|or)\b|{TEXT}\{{\s*,?\s*(?:and|or)\s*\}})\s*"
_COMMA = rf"[,;]\s*(?:{_AND})?|{_AND}"
_OR = rf",?\s*(?:\bor\b|{TEXT}\{{\s*or\s*\}})\s*|{_CUP}"
_RELATION = rf"\\(?:le|ge|ne|equiv){END}|[=<>]"


def _depths(latex: str) -> list[int]:
    """The nesting depth after each bracket of any kind."""
    brackets = re.findall(r"[{(\[\])}]", latex)
    return list(itertools.accumulate(1 if bracket in "{([" else -1 for bracket in brackets))


def _split(latex: str, separator: str) -> list[str]:
    """`latex` cut at every match of `separator` that stands outside all brackets; empty parts are
    dropped.
    """
    parts, depth, start = [], 0, 0
    for token in re.finditer(rf"(?P<bracket>[{{(\[\])}}])|{separator}", latex):
        if token["bracket"]:
            depth += 1 if token["bracket"] in "{([" else -1
        elif depth == 0:
            parts.append(latex[start : token.start()])
            start = token.end()
    return [part.strip() for part in (*parts, latex[start:]) if part.strip()]


def _relations(latex: str) -> tuple[list[str], list[str]]:
    """(sides, signs): `1 < x \\le 2` -> (["1", "x", "2"], ["<", "\\le"])."""
    sides = _split(latex, _RELATION)
    signs = re.findall(_RELATION, _outside(latex))
    return (sides, signs) if len(sides) == len(signs) + 1 else ([latex], [])


def _outside(latex: str) -> str:
    """What stands outside all brackets."""
    depth, kept = 0, []
    for char in latex:
        if char in "{([":
            depth += 1
        if depth == 0:
            kept.append(char)
        if char in "])}":
            depth -= 1
    return "".join(kept)


def _readable(latex: str) -> bool:
    depths = [0, *_depths(latex)]
    return len(latex) <= LONGEST and min(depths) == depths[-1] == 0 and max(depths) <= DEEPEST


# ---------------------------------------------------------------- expressions

_NAMES = re.compile(r"(?<![\\a-zA-Z])[fghDEFGHLPQSTVX](?![a-zA-Z])")
_ORDERED = re.compile(  # products of matrices: A^{-1}B is not BA^{-1}
    r"[A-Z]\s*\^\s*\{?\s*(?:-1|T|\\top)\s*\}?\s*[A-Z]|[A-Z]\s*[A-Z]\s*\^\s*\{?\s*(?:-1|T|\\top)"
)
_PLAIN_WORD = re.compile(r"(?=.*[A-Z])[a-zA-Z]{2,}|[a-zA-Z]{4,}")


def _ordered(latex: str) -> bool:
    """Whether capital letters are matrices here, whose order counts: there is an inverse, or AB and
    BA.
    """
    pairs = {found[1] + found[2] for found in re.finditer(r"(?=([A-Z])([A-Z]))", latex)}
    both = any(pair[::-1] in pairs and pair[0] != pair[1] for pair in pairs)
    return both or _ORDERED.search(latex) is not None


def _trees(*texts: str) -> list[Tree] | None:
    """The trees of texts that are to be compared: a letter means the same in all of them.

    None if one is unreadable.
    """
    if not all(map(_readable, texts)):
        return None
    joined = " ".join(texts)
    bare = re.sub(r"\\[a-zA-Z]+", " ", joined)
    functions = {
        letter
        for letter in set(_NAMES.findall(joined))
        if not re.search(letter + r"(?!\s*\()", bare)
    }
    variables = {"i"} if "j" in bare else set()
    try:
        return [parse(text, frozenset(functions), frozenset(variables)) for text in texts]
    except Unreadable:
        return None


def _expressions(answer: str, gold: str) -> bool:
    """Whether two expressions have equal values."""
    if (":" in answer) != (":" in gold) and re.search(r"/|\\frac", answer + gold):
        answer, gold = answer.replace(":", "/"), gold.replace(":", "/")  # the ratio 3:2
    if any(_ordered(side) or _PLAIN_WORD.fullmatch(side) for side in (answer, gold)):
        return False  # only an equal spelling would do
    trees = _trees(answer, gold)
    return trees is not None and same(*trees, decimal="." in answer + gold)


# ---------------------------------------------------------------- equations and inequalities

_MODULUS = re.compile(rf"\(?\s*\\p?mod{END}\s*\{{?([^{{}}()]*)\}}?\s*\)?$")


def _relation(answer: str, gold: str) -> bool:
    """Whether two equations, inequalities or chains of them say the same, up to a factor and the
    order of sides.
    """
    sides, signs = zip(_relations(answer), _relations(gold), strict=True)
    if len(sides[0]) != len(sides[1]) or not signs[0]:
        return False
    turned = signs == (["="], ["="]) and sorted(map(key, sides[0])) == sorted(map(key, sides[1]))
    if turned:
        return True
    if "\\equiv" in signs[0] + signs[1]:
        return signs[0] == signs[1] and _congruence(*sides)
    trees = _trees(*sides[0], *sides[1])
    if trees is None:
        return False
    half, decimal = len(sides[0]), "." in answer + gold
    one, other = (
        _differences(part, sign)
        for part, sign in zip((trees[:half], trees[half:]), signs, strict=True)
    )
    for sign, tree in one:
        match = next(
            (
                right
                for right in other
                if right[0] == sign
                and proportional(tree, right[1], decimal) in ((1,) if sign in "<\\le" else (1, -1))
            ),
            None,
        )
        if match is None:
            return False
        other.remove(match)
    return True


def _differences(trees: list[Tree], signs: list[str]) -> list[tuple[str, Tree]]:
    """Each relation as (sign, right - left), with > and \\ge turned around."""
    result = []
    for (left, right), sign in zip(itertools.pairwise(trees), signs, strict=True):
        if sign in (">", "\\ge"):
            left, right, sign = right, left, {">": "<", "\\ge": "\\le"}[sign]
        result.append((sign, ("add", right, ("mul", MINUS_ONE, left))))
    return result


def _congruence(answer: list[str], gold: list[str]) -> bool:
    r"""x \equiv 8 \pmod 5 is x \equiv 3 \pmod 5."""
    found = [_MODULUS.search(side[-1]) for side in (answer, gold)]
    if not all(found) or key(found[0][1]) != key(found[1][1]) or key(answer[0]) != key(gold[0]):
        return False
    rests = [
        parse_number(side[-1][: match.start()].strip())
        for side, match in zip((answer, gold), found, strict=True)
    ]
    modulus = parse_number(found[0][1])
    if all(rests) and modulus and modulus.value:
        return (rests[0].value - rests[1].value) % modulus.value == 0
    return key(answer[-1]) == key(gold[-1])


# ---------------------------------------------------------------- intervals as inequalities

Region = tuple[str, list[tuple]]  # (variable or "", [(left, closed, right, closed), ...])
_MIRROR = {"<": ">", "\\le": "\\ge", ">": "<", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
_BUILDER = rf"\\\{{\s*(\\?[a-zA-Z])\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?(?:\\mid{END}|:|\|)\s*(.*)\\\}}"
_EVERYWHERE = ("-\\infty", False, "\\infty", False)


def _region(latex: str) -> Region | None:
    r"""The part of the real line that an interval, an inequality or a union of them describes, if
    it is plain to see.
    """
    if named := re.match(rf"(\\?[a-zA-Z]\w*)\s*\\in{END}\s*", latex):
        region = _region(latex[named.end() :])
        return region and (key(named[1]), region[1])
    if builder := re.fullmatch(_BUILDER, latex):
        region = _region(builder[2])
        return region if region and region[0] == key(builder[1]) else None
    parts = [_piece(part) for part in _split(latex, _OR)]
    if not parts or None in parts:
        return None
    names = {name for name, _ in parts if name}
    if len(names) > 1:
        return None
    return names.pop() if names else "", [piece for _, pieces in parts for piece in pieces]


def _piece(latex: str) -> Region | None:
    if interval := re.fullmatch(r"([(\[])(.*)([)\]])", latex):
        ends = _split(interval[2], ",")
        if len(ends) != 2 or min(_depths(interval[2]), default=0) < 0:
            return None
        return "", [(ends[0], interval[1] == "[", ends[1], interval[3] == "]")]
    if key(latex) in ("\\mathbbR", "\\mathbb{R}", "\\R"):
        return "", [_EVERYWHERE]
    if without := re.fullmatch(
        rf"\\mathbb\{{R\}}\s*(?:\\setminus{END}|\\backslash{END}|-)\s*(.*)", latex
    ):
        inner = re.fullmatch(r"\\\{([^,]*)\\\}", without[1].strip())
        return ("", _around(inner[1])) if inner else None
    sides, signs = _relations(latex)
    if len(signs) == 2 and set(signs) <= {"<", "\\le"} and _is_name(sides[1]):
        return key(sides[1]), [(sides[0], signs[0] != "<", sides[2], signs[1] != "<")]
    if len(signs) == 2 and set(signs) <= {">", "\\ge"} and _is_name(sides[1]):
        return key(sides[1]), [(sides[2], signs[1] != ">", sides[0], signs[0] != ">")]
    if len(signs) != 1 or signs[0] not in _MIRROR or signs[0] == "=":
        return None
    (left, right), sign = sides, signs[0]
    if _is_name(right.strip("|")) and not _is_name(left.strip("|")):
        left, right, sign = right, left, _MIRROR[sign]
    if absolute := re.fullmatch(r"\|(.*)\|", left):
        number = parse_number(right)
        if not _is_name(absolute[1]) or not number or number.value <= 0 or sign == "\\ne":
            return None
        closed = sign in ("\\le", "\\ge")
        if sign in ("<", "\\le"):
            return key(absolute[1]), [("-" + right, closed, right, closed)]
        return key(absolute[1]), [
            ("-\\infty", False, "-" + right, closed),
            (right, closed, "\\infty", False),
        ]
    if not _is_name(left) or left in right:
        return None
    if sign == "\\ne":
        return key(left), _around(right)
    closed = sign in ("\\le", "\\ge")
    if sign in ("<", "\\le"):
        return key(left), [("-\\infty", False, right, closed)]
    return key(left), [(right, closed, "\\infty", False)]


def _around(point: str) -> list[tuple]:
    return [("-\\infty", False, point, False), (point, False, "\\infty", False)]


def _is_name(latex: str) -> bool:
    return re.fullmatch(r"\\?[a-zA-Z]|\\[a-zA-Z]+|[a-zA-Z]_\{?\w+\}?", latex.strip()) is not None


def _same_region(answer: str, gold: str) -> bool:
    one, other = _region(answer), _region(gold)
    if one is None or other is None or (one[0] and other[0] and one[0] != other[0]):
        return False
    return _matched(one[1], other[1], _same_interval)


def _same_interval(answer: tuple, gold: tuple) -> bool:
    return answer[1::2] == gold[1::2] and all(map(_single, answer[::2], gold[::2]))


# ---------------------------------------------------------------- lists, tuples, sets, matrices


def _matched(answers: list, golds: list, compare) -> bool:
    """Equal in some order: each gold takes its first equal among the answers that are left."""
    left = list(answers)
    if len(left) != len(golds):
        return False
    for gold in golds:
        equal_one = next((answer for answer in left if compare(answer, gold)), None)
        if equal_one is None:
            return False
        left.remove(equal_one)
    return True


def _elements(latex: str) -> tuple[str, list[str]]:
    r"""(brackets, elements) of a tuple, interval, set or bare list: "[1, 2)" -> ("[)", ["1", "2"]);
    `\pm` gives two.
    """
    column = r"\\begin\{(?:pmatrix|array)\}(?:\{[clr|]+\})?([^&]*)\\end\{(?:pmatrix|array)\}"
    if found := re.fullmatch(column, latex):  # a column vector may be written as a tuple
        latex = "(" + re.sub(r"\\\\\s*$", "", found[1].strip()).replace(r"\\", ",") + ")"
    brackets, inner = "", re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", latex)
    if inner and min(_depths(inner[2]), default=0) >= 0 and len(_split(inner[2], _COMMA)) > 1:
        brackets, latex = inner[1][-1] + inner[3][-1], inner[2]
    elif (
        inner
        and inner[1] == r"\{"
        and min(_depths(inner[2]), default=0) >= 0
        and r"\pm" in inner[2]
    ):
        brackets, latex = "{}", inner[2]
    parts = _split(latex, _COMMA)
    if brackets in ("", "{}"):
        parts = [
            part.replace(r"\pm", sign).replace(r"\mp", {"+": "-", "-": "+"}.get(sign, ""))
            for part in parts
            for sign in ("+-" if part.count(r"\pm") == 1 else [r"\pm"])
        ]
    return brackets, parts


def _only_element(latex: str) -> str | None:
    r"""5 of the set {5}."""
    inner = re.fullmatch(r"\\\{(.*)\\\}", latex)
    if not inner or min(_depths(inner[1]), default=0) < 0 or r"\pm" in latex:
        return None
    parts = _split(inner[1], _COMMA)
    return parts[0] if len(parts) == 1 and parts[0] != r"\emptyset" else None


def _connectives(latex: str) -> set[str]:
    """The words between inequalities: x > 2 and x < 5 is not x > 2 or x < 5.

    In a list of values they mean the same.
    """
    if not set(_relations(latex)[1]) - {"="}:
        return set()
    return set(re.findall(r"\b(?:and|or)\b", latex))


def _rows(latex: str) -> tuple[str, list[list[str]]] | None:
    """(factor, rows) of a matrix with an optional factor before it."""
    found = re.fullmatch(r"(.*?)\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", latex)
    if not found:
        return None
    rows = re.split(r"\\\\", re.sub(r"\\\\\s*$", "", found[2].strip()))
    return found[1].strip(), [[cell.strip() for cell in row.split("&")] for row in rows]


def _same_matrix(answer: tuple, gold: tuple) -> bool:
    cells = []
    for factor, rows in (answer, gold):
        cells.append([[f"{factor}({cell})" if factor else cell for cell in row] for row in rows])
    if [len(row) for row in cells[0]] != [len(row) for row in cells[1]]:
        return False
    return all(map(_single, itertools.chain(*cells[0]), itertools.chain(*cells[1])))


# ---------------------------------------------------------------- assignments, remarks

_NAME = "|".join(  # what an answer may give a value to
    (
        r"\\(?:vec|mathbf|hat|bar|overline|overrightarrow)\{\w+\}",  # a vector, a mean, a segment
        rf"{TEXT}\{{[\w ]+\}}",  # Area
        r"\\frac\{d\^?\d?\s*[a-z]\}\{d\s*[a-z]\^?\d?\}",  # a derivative
        r"\([a-zA-Z](?:\s*,\s*[a-zA-Z])+\)",  # (x, y)
        r"\|[a-zA-Z]{1,2}\|",  # |AB|
        r"\[[A-Z]{3,}\]",  # [ABC], an area
        r"\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\s*\{?2\}?)?\s*\\?[a-zA-Z]+",  # \sin\theta
        r"[a-z](?:\s*\+\s*[a-z])+",  # m + n
        r"(?:m\s*)?(?:\\(?:angle|triangle)\s*)?\\?[a-zA-Z]\w{0,8}",  # x, \alpha, AB, m\angle A
    )
)
_ASSIGNMENTS = re.compile(  # names, perhaps with an index, a prime and arguments, then = or \in
    rf"(?:(?:{_NAME})(?:_(?:\w|\{{[^{{}}]*\}}))?'*(?:\^\{{-1\}}|\^\s*\\star\s*)?(?:\([^()]*\))?'*"
    rf"\s*(?:=|\\(?:in|approx){END})\s*)+|\\approx{END}"
)
_ABOUT = (
    r"(?:or |which is |i\.?e\.?,? )?"
    r"(?:\b(?<!\\)(?:about|approx(?:imately|\.)?|roughly|nearly|around)|\\approx|\\sim"
    r"|(?<=\()(?:=|or\b))"
)
_REMARK = re.compile(rf"(?P<exact>.*?[^\s,;(])\s*[,;]?\s*\(?\s*{_ABOUT}\s*(?P<about>[^()]*?)\s*\)?")


def _values_of(answer: str, gold: str) -> tuple[str, str]:
    """Both without the assignments they start with: x = 5 is 5.

    But x = 5 is not y = 5, and x = 1, y = 2 stays.
    """
    found = _ASSIGNMENTS.match(answer), _ASSIGNMENTS.match(gold)
    if all(found) and (key(found[0][0]) != key(found[1][0]) or "=" in gold[found[1].end() :]):
        return answer, gold
    return tuple(
        side[match.end() :].strip() if match else side
        for side, match in zip((answer, gold), found, strict=True)
    )


def _without_remark(latex: str) -> list[str]:
    r"""The exact and the rounded value of `\frac{2}{3} \text{(about 0.67)}`, if they agree; else
    the text itself.
    """
    plain = re.sub(r"\s+", " ", re.sub(TEXT + r"\{([^{}]*)\}", r" \1 ", latex))
    found = _REMARK.fullmatch(plain.strip())
    if not found:
        return [latex]
    exact, about = normalise(found["exact"]).latex, normalise(found["about"]).latex
    rounded = re.fullmatch(r"-?\d+(?:\.(\d+))?", about)
    trees = _trees(_values_of(exact, "")[0])
    if not rounded or trees is None or symbols(trees[0]):
        return [latex]
    return [exact, about] if rounds_to(trees[0], about, len(rounded[1] or "")) else [latex]


def _chain(latex: str) -> str:
    """The value that a chain of equations ends with: `1 + 2 = 3` and `S = 2a = 6` are 3 and 6; else
    the text itself.
    """
    sides, signs = _relations(latex)
    if set(signs) != {"="}:
        return latex
    trees = _trees(*sides)
    if trees is None:
        return latex
    numeric = [tree for tree in trees if not symbols(tree)]
    decimal = "." in latex
    if not numeric or any(not same(tree, numeric[-1], decimal) for tree in numeric):
        return latex
    named = _is_name(sides[0]) and len(sides) > 2
    return sides[-1] if named or len(numeric) == len(trees) else latex


# ---------------------------------------------------------------- the verdict


def equal(answer: str, gold: str) -> bool:
    """Whether a model's answer (the content of its box) means the same as the gold answer.

    Never raises on text, and needs no more than a second or two on the worst of it.
    """
    if not answer.strip() or not gold.strip():
        return False
    if answer.strip() == gold.strip():
        return True
    if max(len(answer), len(gold)) > 4 * LONGEST:
        return False
    one, other = normalise(answer), normalise(gold)
    if not one.latex or not other.latex:
        return False
    if key(one.whole) == key(other.whole):
        return True
    if _ignores_unit(one, other) or max(*_depths(one.latex), *_depths(other.latex), 0, 0) > DEEPEST:
        return False
    return any(
        _equal(_thousands(text, gold_text), _thousands(gold_text, text))
        for text in _without_remark(one.latex)
        for gold_text in _without_remark(other.latex)
    )


_THOUSANDS = re.compile(
    r"([+-]?[1-9]\d{0,2}(?:[, ]\d{3})+)(?![\d,])((?:\.\d+)?\s*(?:%|\\?[a-zA-Z].*)?)"
)


def _thousands(latex: str, other: str) -> str:
    """81,256 as one number, 81256; but it is a list where the other side is one: 81, 256."""
    found = _THOUSANDS.fullmatch(latex)
    if not found or (len(_elements(other)[1]) > 1 and not _THOUSANDS.fullmatch(other)):
        return latex
    return re.sub("[, ]", "", found[1]) + found[2]


def _ignores_unit(answer: Spelling, gold: Spelling) -> bool:
    """Two units that differ, or a gold like `6 m` whose letter may be a variable, against a bare
    number.
    """
    if conflict(answer.unit, gold.unit):
        return True
    unit = gold.whole.removeprefix(gold.latex)
    return ambiguous(unit) and answer.latex == answer.whole


@functools.lru_cache(maxsize=4096)
def _equal(answer: str, gold: str) -> bool:
    verdict = _quick(answer, gold)
    if verdict is not None:
        return verdict
    for one, other in {(answer, gold): 0, _values_of(answer, gold): 0}:
        if _relation(one, other) or _same_region(one, other):
            return True
    if not _relations(gold)[1]:
        answer = _chain(answer)
    value, gold = _values_of(answer, gold)
    answer = _chain(value) if value != answer else answer  # x = 1/2 = 0.5
    if _connectives(answer) ^ _connectives(gold) == {"and", "or"}:
        return False
    single = _only_element(answer), _only_element(gold)
    if any(single):
        return _equal(single[0] or answer, single[1] or gold)
    unions = _split(answer, _CUP), _split(gold, _CUP)
    if len(unions[0]) == len(unions[1]) > 1:
        return _matched(*unions, _single)
    matrices = _rows(answer), _rows(gold)
    if all(matrices) and (len(matrices[0][1][0]) > 1 or len(matrices[1][1][0]) > 1):
        return _same_matrix(*matrices)
    (answer_kind, answers), (gold_kind, golds) = _elements(answer), _elements(gold)
    if len(answers) == 1 or len(golds) == 1:
        alternatives = len(answers) > 1 and answer_kind == "" and re.search(r"\bor\b", answer)
        if alternatives and all(_equal(one, gold) for one in answers):
            return True
        return len(answers) == len(golds) and _expressions(answers[0], golds[0])
    if {answer_kind, gold_kind} <= {"", "{}"}:
        return _matched(answers, golds, _single)
    ordered = answer_kind == gold_kind or {answer_kind, gold_kind} == {"", "()"}
    return ordered and len(answers) == len(golds) and all(map(_single, answers, golds))


def _single(answer: str, gold: str) -> bool:
    """`equal` of two elements, which may have units of their own."""
    one, other = normalise(answer), normalise(gold)
    if key(one.whole) == key(other.whole):
        return True
    if _ignores_unit(one, other):
        return False
    return _equal(one.latex, other.latex)


def _quick(answer: str, gold: str) -> bool | None:
    """The verdict that needs no algebra: equal spelling, labels, bases, two plain numbers.

    None: not settled.
    """
    answer, gold = _values_of(answer, gold)
    answer_key, gold_key = key(answer), key(gold)
    if answer_key == gold_key:
        return True
    label = re.match(r"\(([A-Z])\)|([A-Z])[):.]", answer_key)  # the choice with its text: (C) 12
    if label and (label[1] or label[2]) == gold_key:
        return True
    based = [
        re.fullmatch(r"([\dA-F]*\d[\dA-F]*)_(?:\{(\d+)\}|(\d))", side)
        for side in (answer_key, gold_key)
    ]
    if all(based) and based[0].groups() != based[1].groups():
        return False
    if based[1] and answer_key == based[1][1]:
        return True  # the question names the base
    numbers = parse_number(answer), parse_number(gold)
    return same_number(*numbers) if all(numbers) else None
