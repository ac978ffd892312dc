r"""Are two answers equal? `equal(r"\dfrac12", "0.5")` is True.

No state, no clock, no process: a verdict never changes. In this order: spelling, the letter of a
choice, units, equations, regions of the real line, then the solutions one by one, down to values at
fixed points. What is not understood, or has over 300 characters, is equal only by its spelling.
"""

import functools
import itertools
import re
from fractions import Fraction

from .brackets import AND, COMMA, CUP, END, OR, TEXT, cut, depths, elements, relations, split
from .normalise import key, normalise
from .parse import MINUS_ONE, Tree, Unreadable, parse
from .read import Reading, Solution, holds_kin, is_name, read, spread, unindexed
from .regions import region
from .units import ambiguous, conflict
from .values import constant, proportional, same

LONGEST = 300  # characters of an expression that is evaluated; the longest MATH-500 answer has 159
DEEPEST = 20  # brackets inside brackets


def _readable(latex: str) -> bool:
    nesting = [0, *depths(latex)]
    return len(latex) <= LONGEST and min(nesting) == nesting[-1] == 0 and max(nesting) <= DEEPEST


_NAMES = re.compile(r"(?<![\\a-zA-Z])[fghDEFGHLPQSTVX](?![a-zA-Z])")
_ORDERED = re.compile(  # products of matrices: A^{-1}B is not BA^{-1}, AB not BA
    r"[A-Z]\s*\^\s*\{?\s*(?:-1|T|\\top)\s*\}?\s*[A-Z]|[A-Z]\s*[A-Z]\s*\^\s*\{?\s*(?:-1|T|\\top)"
    r"|([A-Z])(?!\1)([A-Z])(?=.*\2\1)"
)
_PLAIN_WORD = re.compile(r"(?=.*[A-Z])[a-zA-Z]{2,}|[a-zA-Z]{4,}")


def trees(*texts: str) -> list[Tree] | None:
    """The trees of texts in which a letter means the same; None if one is unreadable."""
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
    if (":" in answer) != (":" in gold) and re.search(r"/|\\frac|\\sqrt|\.", answer + gold):
        answer, gold = answer.replace(":", "/"), gold.replace(":", "/")  # the ratio 3:2
    if any(_ORDERED.search(one) or _PLAIN_WORD.fullmatch(one) for one in (answer, gold)):
        return False  # only an equal spelling would do
    both = trees(answer, gold)
    if both is None:
        return len(answer + gold) <= 2 * LONGEST and _terms(answer) == _terms(gold) != []
    if same(*both) or (answer[-1:] == "%") == (gold[-1:] == "%"):
        return same(*both)
    bare = [side.removesuffix("%") for side in (answer, gold)]  # 40 for 40%, but not 0.4 for 0.4%
    return same(*trees(*bare)) and abs(number(bare[1]) or 0) >= 1


def number(latex: str):
    """The value of a text without variables; None of any other."""
    tree = trees(latex)
    return constant(tree[0]) if tree else None


def _terms(latex: str) -> list[str]:
    """The spellings of the terms of a sum, with their signs, in a fixed order."""
    parts = cut(latex, r"\+|(?<![\^_{(])-")
    return sorted(f"{sign or '+'}{key(part)}" for sign, part in parts) if len(parts) > 1 else []


_CONGRUENT = re.compile(r"(?:(.*?)(?:\\equiv|=))?(.*?)\(?\s*\\mod\s*\{?([^{}()]*)\}?\s*\)?")


def _relation(answer: str, gold: str) -> bool:
    """Whether two equations or inequalities say the same, up to a factor and the order of sides."""
    found = [_CONGRUENT.fullmatch(side) for side in (answer, gold)]
    if all(found):
        return _congruence(*(side.groups() for side in found))
    (answers, signs), (golds, gold_signs) = relations(answer), relations(gold)
    if not signs or len(answers) != len(golds) or "\\equiv" in signs + gold_signs:
        return False
    if {*signs, *gold_signs} == {"="} and sorted(map(key, answers)) == sorted(map(key, golds)):
        return True
    both = trees(*answers, *golds)
    if both is None:
        return False
    one, other = both[: len(answers)], both[len(answers) :]
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


def _congruence(*sides: tuple[str | None, str, str]) -> bool:
    r"""x \equiv 8 \pmod 5 is x \equiv 3 \pmod 5, and 3 \pmod 5."""
    lefts, rests, moduli = zip(*sides, strict=True)
    if len({key(left) for left in lefts if left}) > 1 or key(moduli[0]) != key(moduli[1]):
        return False
    one, other, modulus = map(number, (*rests, moduli[0]))
    if all(isinstance(each, Fraction) for each in (one, other, modulus)) and modulus:
        return (one - other) % modulus == 0
    return _value(*rests)


def _chain(latex: str) -> str:
    """3 of `1 + 2 = 3` and 6 of `S = 2a = 6`: what equations end with; else the text itself."""
    sides, signs = relations(latex)
    if set(signs) != {"="} or len(split(latex, COMMA)) > 1:
        return latex
    numeric = [side for side in sides if number(side) is not None]
    if numeric[-1:] != sides[-1:] or any(not _value(side, numeric[-1]) for side in numeric):
        return latex
    named = is_name(sides[0]) and len(sides) > 2
    return sides[-1] if named or len(numeric) == len(sides) else latex


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
    return _matched(
        one.pieces,
        other.pieces,
        lambda a, b: a[1::2] == b[1::2] and all(map(_single, a[::2], b[::2])),
    )


def _same_readings(answer: Reading, gold: Reading) -> bool:
    if len(answer.solutions) == len(gold.solutions):
        return _matched(answer.solutions, gold.solutions, _same_solution)
    return _in_order(_row(answer, "", "{"), _row(gold, ""))  # 7, 8 for (7, 8) or x = 7, y = 8


def _row(reading: Reading, *kinds: str) -> list[str]:
    """The values of what may be meant in its order; [] of any other."""
    if len(reading.solutions) == 1:
        return _ordered(reading.solutions[0])
    return [each.get("", "") for each in reading.solutions] if reading.kind in kinds else []


def _ordered(solution: Solution) -> list[str]:
    """The elements of a tuple, or the values of several names by name; [] of any other."""
    if len(solution) > 1:
        return [solution[name] for name in sorted(solution, key=lambda name: name.strip("\\"))]
    found = elements(solution.get("", ""))
    return found[1] if found and (found[0] == "()" or len(found[1]) > 2) else []


def _in_order(answers: list[str], golds: list[str]) -> bool:
    return len(answers) == len(golds) > 0 and all(map(_single, answers, golds))


def _same_solution(answer: Solution, gold: Solution) -> bool:
    if answer.keys() == gold.keys():
        return all(_single(answer[name], gold[name]) for name in gold)
    if len(answer) == len(gold) == 1:
        return _same_named(*answer.items(), *gold.items())
    return "" in answer | gold and _in_order(_ordered(answer), _ordered(gold))


def _same_named(answer: tuple[str, str], gold: tuple[str, str]) -> bool:
    r"""Two values whose names differ: one has none, or f(t) = 2t and f(x) = 2x."""
    (answer_name, one), (gold_name, other) = answer, gold
    if relations(one)[1] or relations(other)[1]:
        texts = [f"{name} = {value}" if name else value for name, value in (answer, gold)]
        if _relation(*texts) or not answer_name:
            return _relation(*texts)
    if answer_name and gold_name:
        if (renamed := _renamed(answer_name, gold_name, one)) is not None:
            return _single(renamed, other)
        return _alike(answer_name, gold_name) and _single(one, other)
    name, value = answer if answer_name else gold
    if "?" in name and not (answer_name and re.search(r"\d|\\pi", other)):
        return False  # a sum or a product is the name of a number only
    return not holds_kin(value, name) and _single(one, other)


def _alike(one: str, other: str) -> bool:
    """Whether two names mean the same: x_1 and x_2, y and y(x), y and f(x)."""
    calls = [name for name in (one, other) if re.fullmatch(r"[a-zA-Z]\([a-z]\)", name)]
    if len(calls) == 1:
        return (one if calls[0] == other else other) in ("y", calls[0][0])
    return unindexed(one) == unindexed(other)


_CALL = re.compile(r"(.+?)(\(|_)([a-z](?:,[a-z])*)\)?")


def _renamed(answer_name: str, gold_name: str, value: str) -> str | None:
    """The value of f(t) = 2t with x for t and t for x, where the gold's name is f(x)."""
    one, other = _CALL.fullmatch(answer_name), _CALL.fullmatch(gold_name)
    if not one or not other or one.group(1, 2) != other.group(1, 2) or len(one[3]) != len(other[3]):
        return None
    if not re.search(rf"(?<![\\a-zA-Z])[{one[3]}]", value):
        return None  # f(a) = 0 is no function
    return _swapped(value, one[3], other[3])


def _swapped(latex: str, ones: str, others: str) -> str:
    """Each letter of one list in place of that of the other."""
    new = dict(zip(others, ones, strict=True)) | dict(zip(ones, others, strict=True))
    return re.sub(r"\\[a-zA-Z]+|[a-z]", lambda found: new.get(found[0], found[0]), latex)


_ABOUT = (
    r"(?:or |which is |i\.?e\.?,? )?"
    r"(?:\b(?<!\\)(?:about|approx(?:imately|\.)?|roughly|nearly|around)|\\approx|\\sim"
    r"|(?<=\()(?:=|or\b|(?=[\d.]*[.%][\d%]*\)$)))"
)
_REMARK = re.compile(rf"(?P<exact>.*?[^\s,;(])\s*[,;]?\s*\(?\s*{_ABOUT}\s*(?P<about>[^()]*?)\s*\)?")
_CONDITION = re.compile(
    rf"[\s,;(]*(?:{TEXT}\{{\s*[,(]?\s*)?(?<![\\a-zA-Z])"
    r"(where|with|for|if|when|such that|provided(?: that)?)\b(.*)"
)
_BARE_CONDITION = re.compile(
    rf"(?P<main>.*[^\s,(])\s*(?:[,;]\s*|(?=\(.*\)$))\(?"
    rf"(?P<condition>[^=<>,()]*(?:\\(?:ne|in|le|ge){END}|[<>])[^,=]*?)\)?"
)
_BOUND = re.compile(rf"([a-z])\s*\\in{END}")
_INTEGER = re.compile(r"(?:all|any|every|some)? ?integers? ?(\w)|(\w) (?:is )?(?:an|any) integer")
_CHOICE = re.compile(
    rf"\s*(?:{TEXT}\{{)?\s*(?:\(([A-Z])\)|([A-Z])(?:\)|[.:](?=[\s\\}}])))\s*\}}?"
    r"(?:\\[ ,;:!]|\\q?quad|~|\s|[:.])*(.*)",
    re.DOTALL,
)
_OPERATION = re.compile(
    r"[-+*/^_=<>|)]\s|[*/^_=<>|)+]|\((?=[A-Z]\))|\\(?:c[au]p|cdot|times|in|to|[lg]eq?|neq?)"
    rf"|[,;]\s*\S|{OR}|{AND}"
)


def _without_remark(latex: str) -> list[str]:
    r"""Both values of `\frac{2}{3} \text{(about 0.67)}`, if they agree; else the text itself."""
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
    found = _CONDITION.search(latex)
    if found and re.search(r"\w", latex[: found.start()]) and not _CONDITION.search(found[2]):
        condition = " ".join(re.sub(rf"{TEXT}\{{|(?<!mathbb{{Z)[{{}}](?!Z)", "", found[2]).split())
        return latex[: found.start()], found[1], _INTEGER.sub(r"\1\2\\in\\mathbb{Z}", condition)
    found = _BARE_CONDITION.fullmatch(latex)
    inequality = found and re.search(rf"\\(?:ne|le|ge){END}|[<>]", found["main"])
    if found and not inequality and [0, *depths(found["main"])][-1] == 0:
        return found["main"], ",", found["condition"]
    return latex, "", ""


def choice(text: str) -> tuple[str, str]:
    r"""("D", "12") of the option `\textbf{(D)}\ 12`, ("D", "") of `(D)`; else ("", the text)."""
    found = _CHOICE.fullmatch(text)
    if not found or _OPERATION.match(found[3]) or _CHOICE.search(found[3]):
        return "", text
    rest = found[3]
    if rest.count("{") < rest.count("}"):  # \text{(D) 12}
        rest = rest.rstrip()[:-1]
    return found[1] or found[2], rest.strip()


def equal(answer: str, gold: str) -> bool:
    """Whether a model's answer (the content of its box) means the same as the gold answer.

    Never raises on text, and needs no more than a tenth of a second on answers of usual length.
    """
    if answer.strip() == gold.strip():
        return bool(gold.strip())
    if all(re.fullmatch("-?[0-9]{1,9}", side.strip()) for side in (answer, gold)):
        return int(answer) == int(gold)  # the usual case, a hundred times faster
    if max(len(answer), len(gold)) > 4 * LONGEST:
        return False
    (letter, text), (gold_letter, gold_text) = choice(answer), choice(gold)
    lone = letter or key(normalise(answer).latex)
    if gold_letter and gold_text:
        if re.fullmatch("[A-Z]", lone):
            return lone == gold_letter and (not letter or not text or _single(text, gold_text))
        return _single(answer, gold_text)
    if letter and text:
        return letter == key(normalise(gold).latex) or _single(text, gold)
    return _single(answer, gold)


def _single(answer: str, gold: str) -> bool:
    """`equal` of two answers or elements, which may have units of their own."""
    one, other = normalise(answer), normalise(gold)
    if not one.latex or not other.latex or conflict(one.unit, other.unit):
        return False
    if key(one.whole) == key(other.whole):
        return True
    unit = other.whole.removeprefix(other.latex)
    if ambiguous(unit) and one.latex == one.whole:
        return False  # 6 for 6 m: the letter may be a variable
    if max(*depths(one.latex), *depths(other.latex), 0, 0) > DEEPEST:
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


@functools.lru_cache(maxsize=4096)
def _equal(answer: str, gold: str) -> bool:
    """`equal` of two texts without units."""
    if _relation(answer, gold) or _same_region(answer, gold):
        return True
    each = spread(answer), spread(gold)
    if each != (answer, gold) and _same_readings(*map(read, each)):
        return True
    value, word, condition = _condition(answer)
    gold_value, gold_word, gold_condition = _condition(gold)
    if word or gold_word:
        bound = [_BOUND.match(one.strip()) for one in (condition, gold_condition)]
        if all(bound) and bound[0][1] not in gold_value:  # k \in \mathbb{Z} and n \in \mathbb{Z}
            value, condition = (
                _swapped(one, bound[0][1], bound[1][1]) for one in (value, condition)
            )
        if word and gold_word:
            pair = condition.strip(), gold_condition.strip()
            agree = key(pair[0]) == key(pair[1]) or _relation(*pair) or _same_region(*pair)
        else:  # only one has a condition: it may explain, but not restrict what the gold says
            agree = word in ("", "where", "with", ",") and gold_word not in ("if", "when")
        return agree and _equal(value.strip(), gold_value.strip())
    answer, gold = (
        one if relations(other)[1] else _chain(one)
        for one, other in ((answer, gold), (gold, answer))
    )
    inequalities = [side for side in (answer, gold) if set(relations(side)[1]) - {"="}]
    if {*re.findall(r"\b(?:and|or)\b", " ".join(inequalities))} == {"and", "or"}:
        return False  # x > 2 and x < 5 is not x > 2 or x < 5
    one, other = read(answer), read(gold)
    solutions = [*one.solutions, *other.solutions]
    if not (one.kind or other.kind) and [[*each] for each in solutions] == [[""], [""]]:
        return _value(*(each[""] for each in solutions))
    alternatives = len(one.solutions) > len(other.solutions) == 1 and re.search(r"\bor\b", answer)
    if alternatives and all(_same_solution(each, other.solutions[0]) for each in one.solutions):
        return True  # 1/2 or 0.5
    return _same_readings(one, other)


def _value(answer: str, gold: str) -> bool:
    """Whether two values are equal. Neither is a list, and neither has a name."""
    if key(answer) == key(gold):
        return True
    based = re.fullmatch(r"([\dA-F]*\d[\dA-F]*)(_|\(?\\mod)\{?\d+\}?\)?", key(gold))
    if based and answer.strip() == based[1]:
        return True  # the question names the base or the modulus
    answer = re.sub(r"^(-?\d+)_\{?10\}?$", r"\1", answer)
    unions = split(answer, CUP), split(gold, CUP)
    if len(unions[0]) == len(unions[1]) > 1:
        return _matched(*unions, _single)
    tuples = elements(re.sub(r"^[A-Z]\s*(?=\()", "", answer)), elements(gold)  # the point P(1, 2)
    if all(tuples):
        return tuples[0][0] == tuples[1][0] and _in_order(tuples[0][1], tuples[1][1])
    if any(tuples):
        cells = (tuples[0] or tuples[1])[1]  # i - 2j + 3k
        vector = "+".join(f"({cell}){unit}" for cell, unit in zip(cells, "ijk", strict=False))
        side = gold if tuples[0] else answer
        both = re.search("[ijk]", side) and len(cells) < 4 and trees(side, vector + "+0j")
        return bool(both) and same(*both)
    return _expressions(answer, gold)
