r"""Are two answers equal? `equal(r"\dfrac12", "0.5")` is True. No state, no clock, no process: a
verdict never changes.

In this order: equal spelling, the letter of a choice, units, plain numbers, regions of the real
line, equations, then the solutions one by one, down to expressions, whose values are compared at
fixed points (values.py). An expression that is not understood is equal only by its spelling, and
one of over 300 characters too.
"""

import functools
import itertools
import re

from .cut import COMMA, CUP, cut, depths, elements, relations, split
from .normalise import END, TEXT, Spelling, key, normalise
from .parse import MINUS_ONE, Tree, Unreadable, parse, symbols
from .read import (
    Reading,
    Solution,
    family,
    holds_kin,
    is_name,
    read,
)
from .regions import Piece, region
from .units import ambiguous, conflict
from .values import proportional, same, values

LONGEST = 300  # characters of an expression that is evaluated; the longest MATH-500 answer has 159
DEEPEST = 20  # brackets inside brackets


def _readable(latex: str) -> bool:
    nesting = [0, *depths(latex)]
    return len(latex) <= LONGEST and min(nesting) == nesting[-1] == 0 and max(nesting) <= DEEPEST


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


def trees(*texts: str) -> list[Tree] | None:
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
    """Whether two expressions have equal values, or equal terms where they cannot be read."""
    if (":" in answer) != (":" in gold) and re.search(r"/|\\frac", answer + gold):
        answer, gold = answer.replace(":", "/"), gold.replace(":", "/")  # the ratio 3:2
    if any(_ordered(side) or _PLAIN_WORD.fullmatch(side) for side in (answer, gold)):
        return False  # only an equal spelling would do
    both = trees(answer, gold)
    if both is None:
        short = max(len(answer), len(gold)) <= LONGEST
        return short and _terms(answer) == _terms(gold) != []
    return same(*both) or ((answer[-1:] == "%") != (gold[-1:] == "%") and _percents(answer, gold))


def number(latex: str):
    """The value of a text without variables; None of any other."""
    tree = trees(latex)
    return values(tree[0])[0].value if tree and not symbols(tree[0]) else None


def _percents(answer: str, gold: str) -> bool:
    """0.4 for 40%, and 40 for 40% where a question asks for a percentage; but not 0.4 for 0.4%."""
    bare = [side.strip().removesuffix("%") for side in (answer, gold)]
    if [*bare] == [answer.strip(), gold.strip()] or not all(map(trees, bare)):
        return False
    value = number(bare[1])
    return value is not None and abs(value) >= 1 and same(*trees(*bare))


def _terms(latex: str) -> list[str]:
    """The spellings of the terms of a sum, with their signs, in a fixed order."""
    parts = cut(latex, r"\+|(?<![\^_{(])-")
    return sorted(f"{sign or '+'}{key(part)}" for sign, part in parts) if len(parts) > 1 else []


# ---------------------------------------------------------------- equations and inequalities

_CONGRUENT = re.compile(rf"(.*?)\(?\s*\\p?mod{END}\s*\{{?([^{{}}()]*)\}}?\s*\)?")


def _relation(answer: str, gold: str) -> bool:
    """Whether two equations, inequalities or chains of them say the same, up to a factor and the
    order of sides.
    """
    (answers, signs), (golds, gold_signs) = relations(answer), relations(gold)
    if not signs or len(answers) != len(golds):
        return False
    equations = {*signs, *gold_signs} == {"="}
    if equations and sorted(map(key, answers)) == sorted(map(key, golds)):
        return True
    if "\\equiv" in signs + gold_signs:
        return signs == gold_signs == ["\\equiv"] and _congruence(*answers, *golds)
    both = trees(*answers, *golds)
    if both is None:
        return False
    one, other = both[: len(answers)], both[len(answers) :]
    lone = [tree for tree in one if tree[0] == "sym" and tree in other]
    if equations and len(one) == 2 and lone:  # y = 2x and y = 3x: compare what y is
        return same(one[one[0] == lone[0]], other[other[0] == lone[0]])
    return _matched(_differences(one, signs), _differences(other, gold_signs), _same_difference)


def _differences(sides: list[Tree], signs: list[str]) -> list[tuple[str, Tree]]:
    """Each relation as (sign, right - left), with > and \\ge turned around."""
    result = []
    for (left, right), sign in zip(itertools.pairwise(sides), signs, strict=True):
        if sign in (">", "\\ge"):
            left, right, sign = right, left, {">": "<", "\\ge": "\\le"}[sign]
        result.append((sign, ("add", right, ("mul", MINUS_ONE, left))))
    return result


def _same_difference(one: tuple[str, Tree], other: tuple[str, Tree]) -> bool:
    allowed = (1,) if one[0] in ("<", "\\le") else (1, -1)
    return one[0] == other[0] and proportional(one[1], other[1]) in allowed


def _congruence(left: str, right: str, gold_left: str, gold_right: str) -> bool:
    r"""x \equiv 8 \pmod 5 is x \equiv 3 \pmod 5."""
    found = [_CONGRUENT.fullmatch(side) for side in (right, gold_right)]
    if not all(found) or key(found[0][2]) != key(found[1][2]) or key(left) != key(gold_left):
        return False
    rest, gold_rest, modulus = map(number, (found[0][1], found[1][1], found[0][2]))
    if None not in (rest, gold_rest) and modulus:
        return (rest - gold_rest) % modulus == 0
    return key(right) == key(gold_right)


def _chain(latex: str) -> str:
    """The value that a chain of equations ends with: `1 + 2 = 3` and `2a = 6` are 3 and 6; else the
    text itself.
    """
    sides, signs = relations(latex)
    if set(signs) != {"="} or len(split(latex, COMMA)) > 1:
        return latex
    numeric = [side for side in sides if number(side) is not None]
    if not numeric or numeric[-1] != sides[-1]:
        return latex
    if any(not _value(side, numeric[-1]) for side in numeric):
        return latex
    named = is_name(sides[0]) and len(sides) > 2
    return sides[-1] if named or len(numeric) == len(sides) else latex


# ---------------------------------------------------------------- regions, matrices


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


def _same_region(answer: str, gold: str) -> bool:
    one, other = region(answer), region(gold)
    if one is None or other is None or (one.name and other.name and one.name != other.name):
        return False
    return _matched(one.pieces, other.pieces, _same_piece)


def _same_piece(answer: Piece, gold: Piece) -> bool:
    return answer[1::2] == gold[1::2] and all(map(_single, answer[::2], gold[::2]))


_MATRIX = re.compile(
    r"(?P<factor>.*?)\\begin\{pmatrix\}(?P<cells>(?:(?!\\begin).)*?)\\end\{pmatrix\}"
    r"\s*(?P<turned>\^\s*\{?\s*(?:T|t|\\top|\\intercal|\\prime|'))?\s*\}?",
    re.DOTALL,
)
_TURNED = re.compile(r"\^\s*\{?\s*(?:T|\\top|\\intercal)\s*\}?$")


def _matrix(latex: str) -> list[list[str]] | None:
    """The rows of a matrix with an optional factor before it; a tuple is a column."""
    if vector := elements(_TURNED.sub("", latex)):
        return [[cell] for cell in vector[1]] if vector[0] in ("()", "[]") else None
    found = _MATRIX.fullmatch(latex)
    if not found:
        return None
    rows = re.split(r"\\\\", re.sub(r"\\\\\s*$", "", found["cells"].strip()))
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if found["turned"]:
        if len({len(row) for row in cells}) > 1:
            return None
        cells = [list(column) for column in zip(*cells, strict=True)]
    factor = found["factor"].strip()
    return [[f"{factor}({cell})" if factor else cell for cell in row] for row in cells]


def _same_matrix(answer: list[list[str]], gold: list[list[str]]) -> bool:
    return [*map(len, answer)] == [*map(len, gold)] and all(
        map(_single, itertools.chain(*answer), itertools.chain(*gold))
    )


def _unit_vectors(latex: str, rows: list[list[str]] | None) -> bool:
    """Whether a column is the vector that `latex` writes as i - 2j + 3k."""
    if not rows or len(rows) not in (2, 3) or not re.search(r"(?<![a-zA-Z\\])[ijk]\b", latex):
        return False
    sum_ = "+".join(f"({row[0]}){unit}" for row, unit in zip(rows, "ijk", strict=False))
    both = trees(latex, sum_ + "+0j")
    return both is not None and same(*both)


# ---------------------------------------------------------------- solutions


def _same_readings(answer: Reading, gold: Reading) -> bool:
    kinds, rows = zip(_row(answer, "{"), _row(gold), strict=True)
    if "" not in kinds and kinds[0] != kinds[1]:
        return _in_order(*rows)  # 7, 8 for (7, 8) or for x = 7, y = 8
    if _matched(answer.solutions, gold.solutions, _same_solution):
        return True
    apart = [[*itertools.chain(*map(_apart, side.solutions))] for side in (answer, gold)]
    return apart != [answer.solutions, gold.solutions] and _matched(*apart, _same_solution)


def _row(reading: Reading, *kinds: str) -> tuple[str, list[str]]:
    """("list", "tuple" or "names", values) of what may be meant in its order, else ("", [])."""
    if len(reading.solutions) == 1:
        (solution,) = reading.solutions
        if len(solution) > 1 and not family(solution):
            return "names", [solution[name] for name in sorted(solution)]
        found = elements(_TURNED.sub("", solution.get("", "")))
        return ("tuple", found[1]) if found else ("", [])
    if reading.kind in ("", *kinds) and all([*solution] == [""] for solution in reading.solutions):
        return "list", [solution[""] for solution in reading.solutions]
    return "", []


def _in_order(answers: list[str], golds: list[str]) -> bool:
    return len(answers) == len(golds) and all(map(_single, answers, golds))


def _apart(solution: Solution) -> list[Solution]:
    """`x_1 = 1, x_2 = -2` as two solutions of x."""
    base = family(solution)
    return [{base: value} for value in solution.values()] if base else [solution]


def _same_solution(answer: Solution, gold: Solution) -> bool:
    if answer.keys() == gold.keys():
        return all(_single(_chain(answer[name]), gold[name]) for name in gold)
    if len(answer) == len(gold) == 1:
        return _same_named(*answer.items(), *gold.items())
    kinds, rows = zip(*(_row(Reading("", [side])) for side in (answer, gold)), strict=True)
    return set(kinds) == {"tuple", "names"} and _in_order(*rows)


def _same_named(answer: tuple[str, str], gold: tuple[str, str]) -> bool:
    r"""Two values whose names differ: one has none, or f(t) = 2t and f(x) = 2x."""
    (answer_name, one), (gold_name, other) = answer, gold
    if relations(one)[1] or relations(other)[1]:
        texts = [f"{name} = {value}" if name else value for name, value in (answer, gold)]
        if _relation(*texts) or not answer_name:
            return _relation(*texts)
    if answer_name and gold_name:
        renamed = _renamed(answer_name, gold_name, one)
        if renamed is not None:
            return _single(renamed, other)
        bases = [family({name: ""}) or name for name in (answer_name, gold_name)]
        return bases[0] == bases[1] in (answer_name, gold_name) and _single(one, other)
    name, value = answer if answer_name else gold
    if holds_kin(value, name) or not (
        "?" not in name or (answer_name and re.search(r"\d|\\pi", other))
    ):
        return False
    return _single(_chain(one), other)


_CALL = re.compile(r"(.+?)(?:\(([a-z](?:,[a-z])*)\)|_([a-z]))")


def _renamed(answer_name: str, gold_name: str, value: str) -> str | None:
    """The value of f(t) = 2t with x for t, where the gold's name is f(x)."""
    one, other = _CALL.fullmatch(answer_name), _CALL.fullmatch(gold_name)
    if not one or not other or one[1] != other[1] or bool(one[2]) != bool(other[2]):
        return None
    letters, wanted = ((found[2] or found[3]).split(",") for found in (one, other))
    if len(letters) != len(wanted):
        return None
    new = dict(zip(letters, wanted, strict=True))
    if set(wanted) - set(letters) & set(re.findall(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])", value)):
        return None
    return re.sub(r"(?<![\\a-zA-Z])[a-zA-Z]", lambda found: new.get(found[0], found[0]), value)


# ---------------------------------------------------------------- what stands around a value

_ABOUT = (
    r"(?:or |which is |i\.?e\.?,? )?"
    r"(?:\b(?<!\\)(?:about|approx(?:imately|\.)?|roughly|nearly|around)|\\approx|\\sim"
    r"|(?<=\()(?:=|or\b))"
)
_REMARK = re.compile(rf"(?P<exact>.*?[^\s,;(])\s*[,;]?\s*\(?\s*{_ABOUT}\s*(?P<about>[^()]*?)\s*\)?")
_CONDITION = re.compile(
    rf"[\s,;(]*(?:{TEXT}\{{\s*[,(]?\s*)?(?<![\\a-zA-Z])"
    r"(?P<word>where|with|for|if|when|such that|provided(?: that)?)\b(?P<condition>.*)"
)
_BARE_CONDITION = re.compile(
    rf"(?P<main>.*[^\s,(])(?:\s*[,;]\s*\(?|\s*\()"
    rf"(?P<condition>[^=<>,]*?(?:\\(?:ne|in|le|ge){END}|[<>])[^,]*?)\)?"
)
_INTEGER = re.compile(r"(?:all|any|every|some)? ?integers? ?(\w)|(\w) (?:is )?(?:an|any) integer")
_CHOICE = re.compile(
    rf"\s*(?:{TEXT}\{{)?\s*(?:\(([A-Z])\)|([A-Z])(?:\)|[.:](?=[\s\\}}])))\s*\}}?"
    r"(?:\\[ ,;:!]|\\q?quad|~|\s|[:.])*(.*)",
    re.DOTALL,
)
_OPERATION = re.compile(r"[-+*/^_=<>|)]\s|[*/^_=<>|)(+]|\\(?:c[au]p|cdot|times|in|to|[lg]eq?|neq?)")


def _without_remark(latex: str) -> list[str]:
    r"""The exact and the rounded value of `\frac{2}{3} \text{(about 0.67)}`, if they agree; else
    the text itself.
    """
    plain = re.sub(r"\s+", " ", re.sub(TEXT + r"\{([^{}]*)\}", r" \1 ", latex))
    found = _REMARK.fullmatch(plain.strip())
    if not found:
        return [latex]
    exact, about = normalise(found["exact"]).latex, normalise(found["about"]).latex
    (solution,) = solutions if len(solutions := read(exact).solutions) == 1 else [{}]
    value = number(solution.popitem()[1]) if len(solution) == 1 else None
    rounded = re.fullmatch(r"-?\d+(?:\.(\d+))?(%?)", about)
    if value is None or not rounded:
        return [latex]
    decimals = len(rounded[1] or "") + 2 * len(rounded[2])
    return [exact, about] if abs(value - number(about)) * 10**decimals <= 0.500001 else [latex]


def _condition(latex: str) -> tuple[str, str, str]:
    """(value, word, condition) of `7, where x > 0`; the last two are "" if there is none."""
    nesting = depths(latex)
    if region(latex) or (nesting and min(nesting) < 0):
        return latex, "", ""
    if found := _CONDITION.search(latex):
        main, condition = latex[: found.start()], found["condition"]
        if re.search(r"[\da-zA-Z]", main) and not _CONDITION.search(condition):
            condition = re.sub(rf"{TEXT}\{{|(?<!mathbb{{Z)[{{}}](?!Z)", "", condition)
            return (
                main,
                found["word"],
                _INTEGER.sub(r"\1\2\\in\\mathbb{Z}", " ".join(condition.split())),
            )
    found = _BARE_CONDITION.fullmatch(latex)
    inequality = found and re.search(rf"\\(?:ne|le|ge){END}|[<>]", found["main"])
    if found and not inequality and [0, *depths(found["main"])][-1] == 0:
        return found["main"], ",", found["condition"]
    return latex, "", ""


def _without_conditions(answer: str, gold: str) -> tuple[str, str] | None:
    """Both values; None if their conditions differ, or if one asks for a condition that the other
    does not have.
    """
    (one, word, condition), (other, gold_word, gold_condition) = (
        _condition(answer),
        _condition(gold),
    )
    if condition and gold_condition:
        agree = key(condition) == key(gold_condition) or _relation(condition, gold_condition)
        agree = agree or _same_region(condition.strip(), gold_condition.strip())
        return (one, other) if agree else None
    needed = ("if", "when", "for", "provided", "provided that", "such that")
    if word in needed or gold_word in needed[:2]:
        return None
    return one, other


def choice(text: str) -> tuple[str, str]:
    r"""(letter, text) of an option: `\textbf{(D)}\ 12` -> ("D", "12"), `(D)` -> ("D", ""); else
    ("", the text).
    """
    found = _CHOICE.fullmatch(text)
    if not found or _OPERATION.match(found[3]) or _CHOICE.search(found[3]):
        return "", text
    rest = found[3]
    if rest.count("{") < rest.count("}"):  # \text{(D) 12}
        rest = rest.rstrip()[:-1]
    return found[1] or found[2], rest.strip()


# ---------------------------------------------------------------- the verdict


def equal(answer: str, gold: str) -> bool:
    """Whether a model's answer (the content of its box) means the same as the gold answer.

    Never raises on text, and needs no more than a tenth of a second on answers of usual length.
    """
    if not answer.strip() or not gold.strip():
        return False
    if answer.strip() == gold.strip():
        return True
    if re.fullmatch(r"-?\d{1,9}", answer.strip()) and re.fullmatch(r"-?\d{1,9}", gold.strip()):
        return int(answer) == int(gold)
    if max(len(answer), len(gold)) > 4 * LONGEST:
        return False
    (letter, text), (gold_letter, gold_text) = choice(answer), choice(gold)
    lone = key(normalise(answer).latex)
    if gold_letter and gold_text:
        if letter or re.fullmatch("[A-Z]", lone):
            return (letter or lone) == gold_letter and (
                not (letter and text) or equal(text, gold_text)
            )
        return equal(answer, gold_text)
    if letter and text:
        return letter == key(normalise(gold).latex) or equal(text, gold)
    one, other = normalise(answer), normalise(gold)
    if not one.latex or not other.latex:
        return False
    if conflict(one.unit, other.unit):
        return False
    if key(one.whole) == key(other.whole):
        return True
    if _needs_unit(one, other) or max(*depths(one.latex), *depths(other.latex), 0, 0) > DEEPEST:
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
    if not found or (len(read(other).solutions) > 1 and not _THOUSANDS.fullmatch(other)):
        return latex
    return re.sub("[, ]", "", found[1]) + found[2]


def _needs_unit(answer: Spelling, gold: Spelling) -> bool:
    """A gold like `6 m`, whose letter may be a variable, against a bare number."""
    unit = gold.whole.removeprefix(gold.latex)
    return ambiguous(unit) and answer.latex == answer.whole


@functools.lru_cache(maxsize=4096)
def _equal(answer: str, gold: str) -> bool:
    """`equal` of two texts without units."""
    if key(answer) == key(gold):
        return True
    if _relation(answer, gold) or _same_region(answer, gold):
        return True
    values = _without_conditions(answer, gold)
    if values is None:
        return False
    if values != (answer, gold):
        return _equal(*map(str.strip, values))
    answer = answer if relations(gold)[1] else _chain(answer)
    if _connectives(answer) ^ _connectives(gold) == {"and", "or"}:
        return False
    one, other = read(answer), read(gold)
    if [[*s] for s in one.solutions] == [[*s] for s in other.solutions] == [[""]] and not (
        one.kind or other.kind
    ):
        return _value(one.solutions[0][""], other.solutions[0][""])
    alternatives = len(one.solutions) > len(other.solutions) == 1 and re.search(r"\bor\b", answer)
    if alternatives and all(_same_solution(each, other.solutions[0]) for each in one.solutions):
        return True  # 1/2 or 0.5
    return _same_readings(one, other)


def _connectives(latex: str) -> set[str]:
    """The words between inequalities: x > 2 and x < 5 is not x > 2 or x < 5.

    In a list of values they mean the same.
    """
    if not set(relations(latex)[1]) - {"="}:
        return set()
    return set(re.findall(r"\b(?:and|or)\b", latex))


def _single(answer: str, gold: str) -> bool:
    """`equal` of two elements, which may have units of their own."""
    one, other = normalise(answer), normalise(gold)
    if conflict(one.unit, other.unit):
        return False
    if key(one.whole) == key(other.whole):
        return True
    return not _needs_unit(one, other) and _equal(one.latex, other.latex)


def _value(answer: str, gold: str) -> bool:
    """Whether two values are equal that are no lists and have no names."""
    if key(answer) == key(gold):
        return True
    based = [
        re.fullmatch(r"([\dA-F]*\d[\dA-F]*)_(?:\{(\d+)\}|(\d))", key(side))
        for side in (answer, gold)
    ]
    if all(based) and based[0].groups() != based[1].groups():
        return False
    if based[1] and key(answer) == based[1][1]:
        return True  # the question names the base
    unions = split(answer, CUP), split(gold, CUP)
    if len(unions[0]) == len(unions[1]) > 1:
        return _matched(*unions, _single)
    tuples = elements(answer), elements(gold)
    if all(tuples) and tuples[0][0] == tuples[1][0]:
        return _in_order(tuples[0][1], tuples[1][1])
    matrices = _matrix(answer), _matrix(gold)
    if all(matrices) and not all(tuples):
        return _same_matrix(*matrices)
    if any(matrices):
        return _unit_vectors(answer, matrices[1]) or _unit_vectors(gold, matrices[0])
    return _expressions(answer, gold)
